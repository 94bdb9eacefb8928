"""A search as something to look at: study.json -> plain numbers -> figures -> one page.

`read` reads the file; `scales` says where a value of a parameter lies; `draw` draws; `page` shows it.
"""

from ampguard.reporting.study.read import Study, read_study
from ampguard.reporting.study.write import write_study_report

__all__ = ["Study", "read_study", "write_study_report"]
