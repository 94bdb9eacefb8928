import json
from pathlib import Path

import pytest

from ampguard.cli.dtypes import fold
from ampguard.precision.dtypes import DtypeRow

TOY = Path(__file__).parents[1] / "training" / "toy_task.py"
BF16 = ("--precision", "bf16", "--on-unsupported", "emulate", "--quiet", "--device", "cpu")


def modules(out):
    return {row["fqn"]: row for row in json.loads(out)["modules"]}


def test_json_has_the_run_and_a_row_for_each_module(cli):
    code, out, _ = cli("doctor", "dtypes", f"{TOY}:build", *BF16, "--format", "json")
    record = json.loads(out)
    assert code == 0 and record["schema"] == 1 and record["task"] == "toy"
    assert record["precision"]["granted"] == "bf16-mixed" and record["overrides"] == {}
    assert modules(out)["0"] == {
        "fqn": "0",
        "kind": "Linear",
        "weights": ["float32"],
        "inputs": ["float32"],
        "compute": ["bfloat16"],
        "outputs": ["bfloat16"],
        "calls": 1,
    }


def test_an_override_shows(cli):
    tokens = ("--override", "0=fp32", "--override", "4=fp32", "--format", "json")
    _, out, _ = cli("doctor", "dtypes", f"{TOY}:build", *BF16, *tokens)
    assert json.loads(out)["overrides"] == {"0": "fp32", "4": "fp32"}
    rows = modules(out)
    assert rows["0"]["compute"] == rows["4"]["compute"] == ["float32"]
    assert rows["0"]["kind"] == "Linear[fp32]"


def test_task_options_reach_build(cli):
    code, out, _ = cli("doctor", "dtypes", f"{TOY}:build", *BF16, "--task.no-norm", "--format", "json")
    assert code == 0 and "BatchNorm1d" not in {row["kind"] for row in modules(out).values()}


def test_the_table_names_task_precision_and_dtypes(cli):
    code, out, err = cli("doctor", "dtypes", f"{TOY}:build", *BF16)
    assert code == 0 and err == ""
    assert "toy in bf16-mixed" in out
    (norm,) = [line for line in out.splitlines() if "BatchNorm1d" in line]
    assert norm.split() == ["1", "BatchNorm1d", "fp32", "bf16", "bf16,", "fp32", "bf16"]
    assert "calls" not in out


def test_the_default_task_is_text_and_its_blocks_are_folded(cli):
    _, out, _ = cli("doctor", "dtypes", "--batch-size", 2, *BF16)
    assert "text in bf16-mixed" in out and "blocks.*.attention.project (x2)" in out
    _, out, _ = cli("doctor", "dtypes", "--batch-size", 2, *BF16, "--all")
    assert "blocks.0.attention.project" in out and "(x2)" not in out


def test_no_run_folder_is_left(cli):
    cli("doctor", "dtypes", f"{TOY}:build", *BF16)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (("digitz",), "Did you mean 'digits'"),
        ((f"{TOY}:build", "--precision", "bf17"), "Did you mean"),
        ((f"{TOY}:build", "--override", "head=fp32"), "head"),
        ((f"{TOY}:build", "--override", "head"), "GLOB=PRECISION"),
        ((f"{TOY}:build", "--batch-size", "0"), "batch_size is 0"),
        ((f"{TOY}:build", "--task.with", "3"), "--task.width"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_2(cli, tokens, words):
    code, out, err = cli("doctor", "dtypes", *tokens, "--format", "json")
    assert code == 2 and json.loads(out)["status"] == "error"
    assert words in err and "Traceback" not in err


def test_a_forward_that_raises_is_told_with_the_users_frames(cli, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom ampguard import Task\n"
        "def loss(model, batch):\n    raise ValueError('the mistake')\n"
        "def build():\n    return Task(name='mine', model=lambda: torch.nn.Linear(1, 1), loss=loss,\n"
        "                train_data=[torch.ones(1)] * 4, defaults={'batch_size': 2})\n"
    )
    code, out, err = cli("doctor", "dtypes", "mine.py", "--precision", "fp32", "--format", "json")
    assert code == 2 and json.loads(out)["error"]["kind"] == "task"
    assert "the mistake" in err and "mine.py" in err and "dtypes.py" not in err


def row(fqn, **changes):
    facts = {"kind": "Linear", "weights": (), "inputs": (), "compute": ("float32",), "outputs": (), "calls": 1}
    return DtypeRow(fqn=fqn, **(facts | changes))


def test_rows_that_differ_in_numbers_only_become_one():
    folded = fold([row(f"blocks.{i}.{part}") for i in range(3) for part in ("up", "down")])
    assert [item.fqn for item in folded] == ["blocks.*.up (x3)", "blocks.*.down (x3)"]


def test_a_block_that_differs_keeps_its_own_row_and_name():
    folded = fold([row("blocks.0.up", compute=("bfloat16",)), row("blocks.1.up"), row("blocks.2.up")])
    assert [item.fqn for item in folded] == ["blocks.0.up", "blocks.*.up (x2)"]


def test_numbers_within_a_name_are_no_index():
    assert [item.fqn for item in fold([row("conv1"), row("conv2"), row("conv1.x2")])] == ["conv1", "conv2", "conv1.x2"]


def test_every_number_of_a_path_is_folded():
    folded = fold([row(f"{i}.{j}") for i in range(2) for j in range(2)])
    assert [item.fqn for item in folded] == ["*.* (x4)"]
