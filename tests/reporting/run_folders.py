"""Run folders as `ampguard train` leaves them, written by hand: no torch is needed to read them."""

import json

HOSTILE = "</script><script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\"><!--"
"""Text that would run, close an element or begin a comment if any of it were not escaped."""


def make_run(
    path,
    *,
    steps=60,
    precision="fp16-mixed",
    status="finished",
    rows=None,
    events=None,
    record=True,
    schema=1,
    **config,
):
    """Write a run of `steps` rows whose first seven were skipped; return its folder."""
    path.mkdir(parents=True)
    options = {"precision": precision, "steps": steps, "lr": 0.003, "out": str(path), "track": ["mlflow"], **config}
    (path / "run.toml").write_text(
        f'schema = {schema}\ndevice = "a CPU"\n[task]\nname = "digits"\ntarget = "digits"\n[task.options]\n'
        f'[precision]\nrequested = "fp16"\ngranted = {json.dumps(precision)}\nreason = "as requested"\n[config]\n'
        + "".join(f"{name} = {_toml(value)}\n" for name, value in options.items())
        + '[versions]\npython = "3.11"\ntorch = "2.13"\n',
        encoding="utf-8",
    )
    written = made_rows(steps) if rows is None else rows
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    told = made_events(steps) if events is None else events
    (path / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    if record:
        counts = {"attempted": steps, "applied": steps - 7, "skipped": 7}
        result = {"schema": schema, "status": status, "steps": counts, "wall_s": 12.5, "samples_per_s": 470.0}
        (path / "run.json").write_text(json.dumps({**result, "resumed_from": None}))
    return path


def _toml(value):
    return "inf" if value == float("inf") else json.dumps(value, ensure_ascii=False)


def made_rows(steps):
    rows = []
    for step in range(1, steps + 1):
        skipped = min(step, 7)
        row = {"step": step, "train/loss": 3.0 / step, "train/lr": 1e-3, "amp/enabled": 1}
        row |= {"train/grad_norm": 9.0 / step} if step > 7 else {}
        row |= {"amp/loss_scale": 2.0 ** (23 - skipped), "amp/applied_steps": step - skipped}
        row |= {"amp/skipped_steps": skipped, "time/step_ms": 20.0, "time/data_wait_ms": 0.5}
        row |= {"throughput/samples_per_s": 3200.0, "memory/peak_allocated_mib": 120.0}
        row |= {"val/loss": 4.0 / step, "val/accuracy": 1 - 1 / step} if step % 20 == 0 else {}
        rows.append(row)
    return rows


def made_events(steps):
    skips = [{"event": "skip", "step": step, "message": "a gradient was not finite"} for step in range(1, 8)]
    return [
        *skips,
        {"event": "tracker_outage", "step": 20, "message": "mlflow: connection refused", "tracker": "mlflow"},
        {
            "event": "fallback",
            "step": 27,
            "message": "'blocks.3.attn': fp16-mixed -> fp32: it overflows",
            "from": "fp16-mixed",
            "to": "fp32",
            "modules": ["blocks.3.attn"],
            "reason": "it overflows",
        },
        {"event": "tracker_recovered", "step": 42, "message": "mlflow: 22 rows replayed", "tracker": "mlflow"},
        {"event": "checkpoint", "step": steps, "message": f"step-{steps:08}"},
    ]


def made_ranges():
    row = {
        "fqn": "blocks.3.attn", "kind": "activation", "dtype": "float32", "count": 100, "zero_pct": 0.0,
        "nonfinite_pct": 0.0, "max_abs": 70000.0, "min_abs": 0.25, "exponents": {"lowest": -2, "counts": [10] * 19},
        "overflow_pct": {"fp16": 10.0, "bf16": 0.0, "e4m3": 42.0, "e5m2": 5.3},
        "underflow_pct": {"fp16": 0.0, "bf16": 0.0, "e4m3": 0.0, "e5m2": 0.0},
    }  # fmt: skip
    small = {
        **row,
        "fqn": "lm_head",
        "kind": "gradient",
        "overflow_pct": {},
        "exponents": {"lowest": -20, "counts": [5, 9]},
    }
    return {
        "schema": 1, "task": "text", "device": "a CPU", "precision": "fp32", "steps": [1, 11],
        "elements_per_tensor": 50,
        "rows": [row, small],
        "recommendation": {
            "format": "fp16", "overrides": {"blocks.3.attn": "fp32"}, "reasons": {"blocks.3.attn": "10 % overflow"},
        },
    }  # fmt: skip
