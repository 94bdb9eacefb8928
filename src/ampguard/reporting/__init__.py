"""Runs as something to look at: records -> plain numbers -> figures -> one page, a text, or JSON. Imports no torch.

`metrics`, `events` and `ranges` read a run folder's files, `run` puts them together; `thin` keeps long curves short.
`charts` and `tables` say what is shown, as plain numbers; `draw_*` and `lanes` draw it; `page` and `text` show it.
"""

from ampguard.reporting.plain import as_dict
from ampguard.reporting.run import Run, read_runs
from ampguard.reporting.write import write_report

__all__ = ["Run", "as_dict", "read_runs", "write_report"]
