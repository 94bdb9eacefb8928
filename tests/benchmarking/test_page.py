"""The page that a bench leaves: beside bench.json, and never at the cost of the bench."""

from pathlib import Path

import pytest

import ampguard
from ampguard.benchmarking.page import leave_page


@pytest.mark.usefixtures("no_memory")
def test_a_bench_leaves_its_page_and_one_that_cannot_be_written_costs_a_warning(build, quick, caplog):
    report = ampguard.bench(build(), **quick)
    page = Path(report.out, "report.html")
    text = page.read_text(encoding="utf-8")
    assert report.recommendation.precision in text and "Every figure" in text and 'id="loss"' in text
    assert "page" not in caplog.text
    caplog.clear()  # on a machine without bf16 instructions the bench says that these are emulated
    page.write_text("<html>my thesis</html>")
    leave_page(Path(report.out))
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.name == "ampguard.benchmarking"
    assert f"ampguard report {report.out}" in record.getMessage()
    assert page.read_text() == "<html>my thesis</html>"


def test_without_a_result_there_is_a_warning_and_no_page(tmp_path, caplog):
    leave_page(tmp_path)
    assert len(caplog.records) == 1 and list(tmp_path.iterdir()) == []
