"""A bench as something to look at: bench.json and the parity runs -> plain numbers -> figures -> one page.

`read` and `trained` read the folder; `plots`, `charts` and `tables` say what is shown, as plain numbers; `draw_*` draw
it; `page`, `text` and `plain` show it.
"""

from ampguard.reporting.bench.plain import as_dict
from ampguard.reporting.bench.read import Bench, find_bench, read_bench
from ampguard.reporting.bench.write import write_bench_report

__all__ = ["Bench", "as_dict", "find_bench", "read_bench", "write_bench_report"]
