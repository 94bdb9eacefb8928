"""An error scenario that the code has and no test exercises."""

from collections.abc import Iterable, Iterator

from ampguard.auditing.coverage import Coverage, coverage
from ampguard.auditing.findings import FileFacts, FileResult, Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.scenarios import scenario_facts
from ampguard.auditing.rules._base import Rule


class UntestedErrorScenario(Rule):
    """Says which error scenarios of the code no test exercises.

    ## What it does
    Looks for error scenarios in the code (a fallback to the CPU, a scaler that may be None, a tracker that may fail or
    have no run, a checkpoint that may be damaged, a denominator that may be zero, ...) and for tests that exercise
    them: by what they replace, hand over and expect, or by their names where they also check something. The question is
    about all audited files together; nothing is said where no tests are among them. At most one finding a scenario,
    at the first place that has it. The coverage table of the report has every scenario with its evidence.

    Tests are read, not run, and one at a time: what a fixture or a helper does for a test is not seen.

    ## Why is this bad
    Code for errors runs seldom and breaks unseen: a fallback that was never taken raises on the day it is needed.

    ## Example
    ```python
    import pytest
    import torch
    from torch.amp import GradScaler


    def make_scaler(use_amp):
        return GradScaler("cuda") if use_amp and torch.cuda.is_available() else None


    @pytest.mark.parametrize("seed", [0, 1])
    def test_make_scaler(seed):
        torch.manual_seed(seed)
        assert make_scaler(False) is None
    ```

    ## Use instead
    ```python
    from unittest import mock

    import pytest
    import torch
    from torch.amp import GradScaler


    def make_scaler(use_amp):
        return GradScaler("cuda") if use_amp and torch.cuda.is_available() else None


    def test_make_scaler_without_a_gpu():
        with mock.patch("torch.cuda.is_available", return_value=False):
            assert make_scaler(True) is None


    def test_scaler_construction_raises():
        with (
            mock.patch("torch.cuda.is_available", return_value=True),
            mock.patch(f"{__name__}.GradScaler", side_effect=RuntimeError("no device")),
            pytest.raises(RuntimeError),
        ):
            make_scaler(True)


    def test_make_scaler_survives_nan():
        assert make_scaler(False) is None
    ```

    ## Fix safety
    There is no automatic fix: a test has to be written.

    ## References
    - [unittest.mock](https://docs.python.org/3/library/unittest.mock.html)
    - [pytest: monkeypatch](https://docs.pytest.org/en/stable/how-to/monkeypatch.html)
    """

    code = "TST001"
    name = "untested-error-scenario"
    severity = Severity.INFO
    likelihood = "possible"
    impact = "The code for this case may be broken without anybody knowing, until the case comes."
    risk = "None: a test changes nothing that runs."
    fix = "Write a test that brings the case about (patch what is missing, hand over None, make the call raise)."
    words = ("def test",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield what a file that is audited alone can answer; over several files `judge` is asked once, at the end."""
        if len(module.project.files) == 1:
            facts = FileFacts(path=module.path, lines=0, role=module.role, facts=tuple(scenario_facts(module)))
            yield from self.judge([FileResult(facts=facts)])

    def judge(self, results: Iterable[FileResult]) -> Iterator[Finding]:
        """Yield a finding for each scenario that the code has and no test exercises; none without tests."""
        for row in coverage(results):
            if row.state in ("untested", "partly") and row.places:
                yield self._told(row)

    def _told(self, row: Coverage) -> Finding:
        place = row.places[0]
        what = f"precision names {', '.join(row.missing)}" if row.missing else row.title
        return Finding(
            code=self.code,
            name=self.name,
            severity=self.severity,
            likelihood=self.likelihood,
            path=place.path,
            line=place.line,
            column=1,
            end_line=place.line,
            message=f"no test exercises this: {what} ({place.text})",
            impact=self.impact,
            risk=self.risk,
            fix=self.fix,
        )
