import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from ampguard.cli import heatmap
from ampguard.cli.range_rows import lines
from ampguard.cli.range_view import shortened, show

TOY = Path(__file__).parents[1] / "training" / "toy_task.py"
QUICK = ("--steps", 2, "--device", "cpu", "--quiet")
HOT = """
import torch
from ampguard import Task

class Block(torch.nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.up, self.down = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        with torch.no_grad():
            self.up.weight.mul_(gain)
            self.down.weight.mul_(1 / gain)
    def forward(self, x):
        return self.down(self.up(x))

class Net(torch.nn.Module):
    def __init__(self, gains):
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block(gain) for gain in gains)
        self.head = torch.nn.Linear(4, 1)
    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)

def build(gains: str = "1e6,1e6"):
    def loss(model, batch):
        if not gains:
            raise ValueError("the mistake")
        return model(batch).pow(2).mean()
    return Task(name="hot", model=lambda: Net([float(g) for g in gains.split(",") if g]), loss=loss,
                train_data=[torch.ones(4) * i for i in range(1, 5)], defaults={"batch_size": 2, "lr": 1e-9})
"""


@pytest.fixture
def hot(cli, tmp_path):
    (tmp_path / "hot.py").write_text(HOT)
    return "hot.py:build"


def test_json_is_the_record(cli):
    code, out, err = cli("doctor", "ranges", f"{TOY}:build", *QUICK, "--format", "json")
    record = json.loads(out)
    assert (code, err) == (0, "")
    assert (record["schema"], record["task"], record["precision"], record["steps"]) == (1, "toy", "fp32", [1, 2])
    assert {row["fqn"] for row in record["rows"]} == {"0", "1", "2", "3", "4"}
    assert record["recommendation"]["overrides"] == {} and record["notes"] == []


def test_steps_and_batch_size_decide_how_much_is_counted(cli):
    def counted(*tokens):
        record = json.loads(cli("doctor", "ranges", f"{TOY}:build", "--quiet", "--format", "json", *tokens)[1])
        return next(row["count"] for row in record["rows"] if row["kind"] == "activation")

    assert counted("--steps", 1, "--batch-size", 4) == 32
    assert counted("--steps", 3, "--batch-size", 4) == 96
    # The 96 samples are 16 batches: the last step is of the next epoch.
    assert counted("--steps", 17, "--batch-size", 6) == 17 * 48


def test_the_measured_steps_are_the_first_of_train(cli):
    shared = (f"{TOY}:build", "--device", "cpu", "--quiet")
    cli("train", *shared, "--precision", "fp32", "--ranges-every", 1, "--out", "run")
    trained = json.loads(Path("run/ranges.json").read_text())
    cli("doctor", "ranges", *shared, "--steps", 20, "--out", "own.json")
    assert json.loads(Path("own.json").read_text()) == trained


def test_text_shows_a_table_two_maps_and_what_to_do(cli):
    code, out, err = cli("doctor", "ranges", *QUICK, "--batch-size", 2)
    assert (code, err) == (0, "")
    assert "text on" in out and "2 steps in fp32, judged for fp16" in out
    assert "blocks.*.attention.query_key_value (x2)" in out and "blocks.0.mlp.expand" not in out
    assert "Base-2 exponents of values" in out and "Base-2 exponents of gradients" in out
    assert "No module of this model leaves fp16's range in these 2 steps" in out
    assert "A loss scale of" in out


def test_all_shows_every_block(cli):
    out = cli("doctor", "ranges", *QUICK, "--batch-size", 2, "--all")[1]
    assert "blocks.0.mlp.expand" in out and "(x2)" not in out


def test_recommended_flags_are_what_train_takes_and_heal_the_run(cli, hot):
    out = cli("doctor", "ranges", hot, *QUICK)[1]
    assert "  --override 'blocks.*=fp32'\n" in out and "--override head" not in out
    train = (
        "train",
        hot,
        "--steps",
        2,
        "--precision",
        "fp16",
        "--on-unsupported",
        "emulate",
        "--quiet",
        "--device",
        "cpu",
    )
    sick = cli(*train, "--out", "sick")
    assert sick[0] == 3
    code, _, err = cli(*train, "--out", "well", "--override", "blocks.*=fp32")
    assert (code, err) == (0, "")


def test_only_the_block_that_leaves_is_named(cli, hot):
    out = cli("doctor", "ranges", hot, *QUICK, "--task.gains", "1,1e6,1", "--format", "json")[1]
    best = json.loads(out)["recommendation"]
    assert list(best["overrides"]) == ["blocks.1"] and "fp16 ends at 65504" in best["reasons"]["blocks.1"]


@pytest.mark.parametrize("name", ["bf16", "e4m3", "e5m2"])
def test_for_judges_by_another_format(cli, hot, name):
    out = cli("doctor", "ranges", hot, *QUICK, "--for", name)[1]
    assert f"judged for {name}" in out and "loss scale of" not in out and "go up to" not in out
    assert ("scaled" in out) == (name != "bf16")


def test_out_writes_the_record_beside_what_is_shown(cli):
    out = cli("doctor", "ranges", f"{TOY}:build", *QUICK, "--out", "my.json")[1]
    assert "Base-2 exponents" in out and json.loads(Path("my.json").read_text())["task"] == "toy"
    assert [path.name for path in Path().iterdir()] == ["my.json"]


def test_no_file_is_left(cli):
    cli("doctor", "ranges", f"{TOY}:build", *QUICK)
    assert list(Path().iterdir()) == []


def test_progress_is_one_line_where_there_is_no_terminal(cli):
    err = cli("doctor", "ranges", f"{TOY}:build", "--steps", 1, "--device", "cpu")[2]
    assert err == "measuring 1 training step in fp32\n"


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (("digitz",), "Did you mean 'digits'"),
        ((f"{TOY}:build", "--steps", 0), "steps is 0"),
        ((f"{TOY}:build", "--for", "fp4"), "fp4"),
        ((f"{TOY}:build", "--batch-size", 0), "batch_size is 0"),
        ((f"{TOY}:build", "--task.with", 3), "--task.width"),
        ((f"{TOY}:build", "--steps", 1, "--out", "no/such/folder.json"), "cannot be written"),
        (("hot.py:build", "--task.gains="), "the mistake"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_2(cli, hot, tokens, words):
    code, out, err = cli("doctor", "ranges", *tokens, "--format", "json")
    assert code == 2 and json.loads(out)["status"] == "error"
    assert words in err and "ranges.py" not in err


def row(fqn, kind="activation", *, counts=(5, 5), lowest=0, **changes):
    shares = dict.fromkeys(("fp16", "bf16", "e4m3", "e5m2"), 0.0)
    facts = {
        "max_abs": 1.0, "nonfinite_pct": 0.0, "overflow_pct": shares, "underflow_pct": shares,
        "underflow_scaled_pct": {"e4m3": 0.0, "e5m2": 0.0}, "exponents": {"lowest": lowest, "counts": list(counts)},
    }  # fmt: skip
    return {"fqn": fqn, "kind": kind, **facts, **changes}


def record(*rows, **recommendation):
    best = {
        "format": "fp16", "overrides": {}, "reasons": {}, "summary": "a summary.", "loss_scale": None,
        "flushed_allowed_pct": 5.0, "exponents": [-25, 15],
    }  # fmt: skip
    head = {"task": "t", "device": "cpu", "precision": "fp32", "steps": [1], "notes": ["a note."]}
    return {**head, "rows": list(rows), "recommendation": best | recommendation}


def shown(what, width):
    console = Console(width=width, file=io.StringIO(), highlight=False)
    show(console, what, fold=True)
    return console.file.getvalue()


def test_blocks_that_are_alike_are_one_line_with_the_worst_of_them():
    worst = {"fp16": 7.0, "bf16": 0.0, "e4m3": 0.0, "e5m2": 0.0}
    found = lines([row("b.0.x", max_abs=2.0), row("b.1.x", underflow_pct=worst), row("head")], "fp16", fold=True)
    assert [line.name for line in found] == ["b.*.x (x2)", "head"]
    assert (found[0].values.max_abs, found[0].values.underflow_pct, found[0].values.counts) == (
        2.0,
        7.0,
        {0: 10, 1: 10},
    )


def test_what_a_sequential_numbers_is_not_taken_for_alike():
    assert [line.name for line in lines([row("0"), row("1"), row("a.0.b")], "fp16", fold=True)] == ["0", "1", "a.0.b"]


def test_weights_stand_in_for_what_a_module_never_returned():
    (line,) = lines([row("0", "weight", max_abs=3.0), row("0", "weight_gradient")], "fp16", fold=True)
    assert line.values.max_abs == 3.0 and line.gradients is not None


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_wider_than_the_terminal(width):
    long = "transformer.encoder.layers.7.self_attention.query_key_value_projection"
    rows = [row(long, lowest=-140, counts=[1] * 260), row(long, "gradient", lowest=-149, counts=[1] * 270)]
    text = shown(record(*rows), width)
    assert max(map(len, text.splitlines())) <= width
    assert "exponents a column" in text and "query_key_value_projection"[-15:] in text


def test_a_flag_is_never_broken():
    glob = "blocks.*." + "x" * 100
    text = shown(record(row("a"), overrides={glob: "fp32"}, reasons={glob: "why"}), 80)
    assert f"  --override '{glob}=fp32'\n" in text and "\n      why" in text


def test_notes_and_non_finite_values_are_told():
    text = shown(record(row("a", nonfinite_pct=2.5)), 80)
    assert "a: 2.5 % of its activation values are inf or NaN." in text and "Note: a note." in text


def test_names_with_markup_are_shown_as_they_are():
    assert shown(record(row("[red]x[/]")), 80).count("[red]x[/]") == 2, "once in the table, once in the map"


def test_nothing_measured_is_no_crash():
    assert "A summary." in shown(record(), 80)
    assert "A summary." in shown(record(row("a", counts=[], max_abs=None)), 80)


def cells(counts, width=60, lowest=-25, highest=15):
    axis = heatmap.make_axis([counts], lowest=lowest, highest=highest, width=width)
    return heatmap.draw(counts, axis).plain, axis


def test_a_map_shades_by_share_and_marks_the_formats_ends():
    plain, axis = cells({-30: 1, -25: 50, 0: 949, 15: 5000, 16: 4000})
    assert (axis.first, axis.per_column) == (-30, 1)
    assert plain == "·" + " " * 4 + "|░" + " " * 24 + "▒" + " " * 14 + "█|█"


def test_a_far_end_is_not_drawn():
    assert "|" not in cells({0: 1, 1: 1}, lowest=-133, highest=127)[0]


@pytest.mark.parametrize("width", range(12, 80, 7))
@pytest.mark.parametrize("limits", [(-25, 15), (-134, 127), (-10, 8)])
def test_a_map_fits_its_width_and_loses_no_exponent(width, limits):
    counts = dict.fromkeys(range(-60, 20), 1)
    plain, axis = cells(counts, width, *limits)
    assert len(plain) <= width
    assert axis.place(-60) >= 0 and axis.place(19) < axis.columns
    outside = sum(1 for c in range(axis.columns) if not axis.inside(c))
    exponents = sum(1 for e in counts if not limits[0] <= e <= limits[1])
    assert outside * axis.per_column >= exponents - axis.per_column


def test_every_share_has_a_shade_and_nothing_has_none():
    assert [heatmap.shade(share) for share in (0, 1e-9, 0.1, 1, 10, 30, 100)] == [" ", "·", "░", "▒", "▓", "█", "█"]


def test_the_ruler_names_the_exponent_above_it():
    _, axis = cells({-30: 1, 16: 1})
    ruler = heatmap.ruler(axis).plain
    assert ruler.split() == ["-30", "-22", "-14", "-6", "2", "10"]
    # One column further right, beyond the mark at the format's beginning.
    assert ruler.index("-22") == 9


def test_a_long_name_keeps_its_end():
    assert shortened("blocks.0.mlp", 20) == "blocks.0.mlp" and shortened("blocks.0.mlp", 6) == "…0.mlp"
