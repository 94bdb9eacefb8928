import json
from pathlib import Path

import pytest

TASK = Path(__file__).parents[1] / "training" / "replay_task.py"
QUICK = ("--steps", "8", "--device", "cpu", "--no-report", "--quiet")


@pytest.fixture
def bundle(cli):
    """Train with a sample that is not finite; return the bundle."""

    def bundle(*tokens):
        code, _, err = cli("train", f"{TASK}:build", *tokens, *QUICK, "--out", "run")
        assert code == 0, err
        return next(iter(sorted(Path("run/replay").iterdir())))

    return bundle


def test_the_report_names_the_place_the_samples_and_where_the_weights_came_from(cli, bundle):
    path = bundle("--task.bad", "7")
    code, out, err = cli("doctor", "replay", path)
    assert code == 0 and err == ""
    assert f"Step {int(path.name[5:])} (nonfinite): not finite again" in out
    assert "First not finite: the model itself, data: the batch holds 1 values that are not finite" in out
    assert "number 7 of the dataset" in out and "float32 ends at 3.40282e+38" in out
    assert "Weights, generators and batch are those of the run." in out


def test_an_overflow_ends_with_the_command_that_helps(cli, bundle):
    path = bundle(
        "--task.large", "7", "--precision", "fp16", "--on-unsupported", "emulate", "--init-scale", "1"
    )  # fmt: skip
    code, out, _ = cli("doctor", "replay", path)
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert any(row[:4] == ["fp16-mixed", "(loss", "scale", "1)"] and "not" in row for row in rows)
    assert any(row[:2] == ["fp32", "finite"] for row in rows)
    command = out.rsplit("Try: ", 1)[1]
    assert command.strip().endswith("--task.large 7 --precision fp16-mixed --override product=fp32")


def test_json_is_one_object_of_plain_numbers(cli, bundle):
    path = bundle("--task.zero", "7")
    code, out, _ = cli("doctor", "replay", path, "--format", "json")
    record = json.loads(out)
    assert code == 0 and record["schema"] == 1 and record["reproduced"] is record["exact"] is True
    assert record["step"] == int(path.name[5:]) and record["event"] == "skip"
    assert record["run"]["precision"] == "fp32" and record["run"]["loss"] > 0 and record["run"]["grad_norm"] is None
    assert record["run"]["finding"]["phase"] == "backward" and record["run"]["finding"]["fqn"] == "loss"


def test_a_step_that_is_finite_this_time_is_no_failure(cli, bundle):
    path = bundle("--task.bad", "7")
    facts = json.loads((path / "bundle.json").read_text())
    facts["batch"] = {"stored": False, "reason": "for a test"}
    # The data were mended meanwhile.
    facts["task"]["options"] = {}
    (path / "bundle.json").write_text(json.dumps(facts))
    code, out, _ = cli("doctor", "replay", path, "--target", f"{TASK}:build")
    assert code == 0 and "finite this time" in out and "for a test" in out


def test_bad_input_is_exit_2_and_one_message(cli, bundle):
    path = bundle("--task.bad", "7")
    for tokens, message in (
        (["nowhere"], "no replay bundle: it has no bundle.json"),
        (["run"], f"Allowed: {path.resolve().relative_to(Path.cwd())}"),
        ([path, "--device", "cuda:9"], "device 'cuda:9' is not there"),
        ([path, "--rerun", "-1"], "rerun is -1"),
        ([path, "--target", "nothing.py:build"], "does not exist"),
    ):
        code, out, err = cli("doctor", "replay", *tokens, "--format", "json")
        assert code == 2 and message in err, (tokens, err)
        assert json.loads(out)["status"] == "error"
    text = (path / "bundle.json").read_text()
    for torn, message in ((text[:200], "is no JSON"), (text.replace('"schema": 1', '"schema": 9'), "schema 9")):
        (path / "bundle.json").write_text(torn)
        code, _, err = cli("doctor", "replay", path)
        assert code == 2 and message in err


def test_the_default_of_rerun_is_the_library_s(cli):
    from ampguard.cli.replay import replay
    from ampguard.training.replay import RERUN

    assert replay.__kwdefaults__["rerun"] == RERUN


def test_help_tells_what_it_does(cli):
    code, out, _ = cli("doctor", "replay", "--help")
    assert code == 0 and "--rerun" in out and "--target" in out
