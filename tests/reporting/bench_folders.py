"""Folders of benches as `ampguard bench` leaves them, written by hand: no torch is needed to read them."""

import json
import math
import random

PARTS = ("weights", "gradients", "optimizer", "activations", "workspace")


def make_bench(path, *, trials=None, trained=("fp32", "bf16-mixed", "fp16-mixed"), seeds=5, **changed):
    """Write a bench of fp32, bf16 (1.8x faster), fp16 (emulated, 23x slower), fp8 (unsupported) and tf32 (failed)."""
    path.mkdir(parents=True)
    trials = made_trials() if trials is None else trials
    held = {
        "schema": 1,
        "task": "text",
        "device": "AMD EPYC (CPU)",
        "baseline": "fp32",
        "settings": {"tf32": False, "compile": False, "torch": "2.13.0", "driver": None, "threads": 2},
        "trials": trials,
        "recommendation": {"precision": "bf16-mixed", "why": "bf16-mixed is 1.80x faster (95 % CI 1.78-1.82): use it."},
        "warnings": ["fp16-mixed: the machine was noisy."],
        "unmet": [],
        "against": None,
        "wall_s": 312.5,
        "status": "finished",
        "out": str(path),
        "command": {"target": "text", "options": {"size": "small"}},
        **changed,
    }
    (path / "bench.json").write_text(json.dumps(held))
    (path / "run.toml").write_text('schema = 1\n[task]\nname = "bench-text"\n')
    for name in trained:
        for seed in range(seeds):
            make_parity_run(path / "parity" / name / f"seed-{seed}", name, seed)
    return path


def made_trials():
    noise = random.Random(0)
    base = [100 * (1 + 0.02 * noise.gauss(0, 1)) for _ in range(20)]
    halves = [ms / 1.8 * (1 + 0.02 * noise.gauss(0, 1)) for ms in base]
    slow = [ms * 23 * (1 + 0.02 * noise.gauss(0, 1)) for ms in base[:12]]
    none = parity(result="not_measured", seeds=0, steps=0, margin=0.01)
    return [
        trial("fp32", base, peak=400.0, parity=parity(result="not_measured", spread=0.004, reason="the baseline")),
        trial(
            "bf16-mixed", halves, speedup=(1.8, [1.78, 1.82]), peak=276.0, saved=31.0,
            parity=parity(0.001, [-0.002, 0.004], result="equivalent", spread=0.004, gap=0.021, gap_step=40),
        ),
        trial(
            "fp16-mixed", slow, speedup=(1 / 23, [1 / 24, 1 / 22]), peak=290.0, saved=27.5,
            reason="this CPU only emulates it",
            parity=parity(0.008, [-0.003, 0.019], result="inconclusive", spread=0.004, gap=0.3, gap_step=20,
                          reason="about 14 seeds would tell", needed=14),
        ),
        {**trial("fp8", [], parity={**none, "reason": "it cannot run here"}), "status": "unsupported",
         "reason": "it needs a GPU of compute capability 8.9"},
        {**trial("tf32", base[:3], speedup=(1.0, None), parity={**none, "reason": "it failed"}), "status": "failed",
         "reason": "blocks.3.attn made every gradient non-finite",
         "reasons": {"speedup": "an interval needs 10 blocks, and 3 were measured", "peak_memory_mib": "it failed"}},
    ]  # fmt: skip


def trial(precision, samples_ms, *, speedup=(1.0, [1.0, 1.0]), peak=None, saved=0.0, reason="", parity, **changed):
    is_known = bool(samples_ms)
    step_ms = sorted(samples_ms)[len(samples_ms) // 2] if is_known else None
    shares = (0.1, 0.1, 0.2, 0.5, 0.1)
    return {
        "precision": precision,
        "status": "ok",
        "reason": reason,
        "step_ms": {"median": step_ms, "iqr": 2.0 if is_known else None, "n": len(samples_ms)},
        "samples_ms": samples_ms,
        "samples_per_s": 64e3 / step_ms if step_ms else None,
        "data_wait_ms": 0.2 if is_known else None,
        "peak_memory_mib": peak,
        "memory_mib": {part: peak and peak * share for part, share in zip(PARTS, shares, strict=True)},
        "speedup": {"median": speedup[0], "ci95": speedup[1]} if is_known else {"median": None, "ci95": None},
        "spread": 0.03 if is_known else None,
        "memory_reduction_pct": saved if peak else None,
        "largest_micro_batch": None,
        "parity": parity,
        "targets": {"speedup_1_5x": speedup[0] and speedup[0] >= 1.5, "memory_reduction_40pct": peak and False},
        "skipped_steps": 0,
        "reasons": {"largest_micro_batch": "no memory limit was given (--memory-limit)"} if is_known else {},
        **changed,
    }


def parity(
    difference=None, ci90=None, *, result, spread=None, gap=None, gap_step=None, needed=None, reason="", **changed
):
    return {
        "metric": "val/loss", "kind": "relative", "seeds": 5, "steps": 100, "difference": difference, "ci90": ci90,
        "margin": 0.01, "result": result, "seeds_needed": needed, "baseline_spread": spread, "largest_gap": gap,
        "largest_gap_step": gap_step, "reason": reason, **changed,
    }  # fmt: skip


def make_parity_run(path, precision, seed, *, status="finished"):
    """Write a run of 100 steps, logged every tenth; fp16's loss scale was halved once."""
    path.mkdir(parents=True)
    shift = {"fp32": 0.0, "bf16-mixed": 0.05, "fp16-mixed": 0.1}.get(precision, 0.0)
    rows = []
    for step in range(10, 101, 10):
        row = {"step": step, "train/loss": made_loss(step, seed) + shift, "train/lr": 1e-3}
        rows.append(row | ({"amp/loss_scale": 65536.0 if step < 50 else 32768.0} if "fp16" in precision else {}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    final = {"train/loss": rows[-1]["train/loss"], "val/loss": 2.0 + 0.01 * seed + 0.1 * shift}
    (path / "run.json").write_text(json.dumps({"schema": 1, "status": status, "final": final}))
    return path


def made_loss(step, seed):
    return 4.0 * math.exp(-step / 60) + 0.1 * seed
