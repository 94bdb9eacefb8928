"""What a test does that is an error scenario: each function walks (node, what it does there)."""

import ast
import math
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import TRACKERS
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.scenario_tests import Case, is_constant, number, replacements
from ampguard.auditing.reading.tree import called, key, receiver

_RUN_WORDS = ("never", "allow", "must")
"""What `wandb.init(resume=...)` takes."""

Acts = Iterator[tuple[ast.AST, str]]

LARGE_SCALE, SMALL_SCALE = 2.0**24, 2.0**-10
"""Scales outside of these are extreme. Chosen: 65536 doubled eight times without one overflow; a thousandth."""

_TRACKER = regex(rf"(^|[._])({'|'.join(TRACKERS)}|tensorboard|tracker|summary_?writer)([._]|$)", re.IGNORECASE)
_CLOCK = regex(r"(^|\.)(perf_counter|monotonic|process_time|time\.time|max_memory_allocated|memory_allocated)$")
_SCALE = regex(r"(^|\.)(loss|init|initial|grad|amp)_?scale$")
_ZEROED = regex(
    r"(\w+_)?(elapsed|denominator)(_\w{1,5})?$|(time|duration)$"
    r"|(step|epoch|total|train|fp16|fp32|amp|baseline)_(time|memory|seconds)(_\w{1,5})?$"
)
"""Arguments that are what a clock or an allocator said, not settings such as `wait_time`."""
_FILLED = frozenset({"tensor", "as_tensor", "full", "full_like", "fill_", "fill"})
_TRAINS = frozenset({"backward", "step", "unscale_", "optimizer_step", "training_step", "train_step", "fit", "train"})
_LOADS = regex(r"(^|_)(load|resume|restore)", re.IGNORECASE)
_DAMAGE = frozenset({"write_bytes", "write_text", "truncate", "unlink", "remove"})
_DAMAGED = regex(r"(FileNotFoundError|EOFError|BadZipFile|CheckpointError|CorruptError)$")


def without_gpu(module: Module, test: Case) -> Acts:
    """Walk where a test hides the GPU."""
    for one in replacements(module, test):
        if one.target.endswith(("cuda.is_available", "is_cuda_available")) and is_constant(one.value, False):
            yield one.node, f"makes {one.target}() false"
        elif one.target.endswith("cuda.device_count") and is_constant(one.value, 0):
            yield one.node, f"makes {one.target}() zero"
    for call in test.calls:
        if called(call) == "setenv" and [a.value for a in call.args if isinstance(a, ast.Constant)] in (
            ["CUDA_VISIBLE_DEVICES", ""],
            ["CUDA_VISIBLE_DEVICES", "-1"],
        ):
            yield call, "hides the GPUs by CUDA_VISIBLE_DEVICES"


def without_scaler(_: Module, test: Case) -> Acts:
    """Walk where a test hands over no scaler."""
    for call, name, value in test.keywords():
        if name.endswith("scaler") and is_constant(value, None):
            yield call, f"hands over {name}=None"
    for node, place, value in test.assigned():
        if re.search(r"scaler('\])?$", place) and is_constant(value, None) and place != "scaler":
            yield node, f"sets {place} to None"


def extreme_scale(_: Module, test: Case) -> Acts:
    """Walk where a test sets a loss scale that no healthy run has."""
    for node, name, value in (*test.keywords(), *test.assigned()):
        scale = number(value) if _SCALE.search(name) else None
        if is_constant(value, 0):  # DeepSpeed's word for a dynamic scale
            continue
        if scale is not None and not SMALL_SCALE <= scale <= LARGE_SCALE:
            yield node, f"uses {name} = {scale:g}"


def run_none(module: Module, test: Case) -> Acts:
    """Walk where a test takes the tracker's run away."""
    for one in replacements(module, test):
        if re.search(r"(^|[._])(wandb\w*\.run|\w*mlflow\.active_run)$", one.target) and is_constant(one.value, None):
            yield one.node, f"makes {one.target} None"


def tracker_fails(module: Module, test: Case) -> Acts:
    """Walk where a test makes a tracker raise."""
    for one in replacements(module, test):
        if one.raises and _TRACKER.search(one.target):
            yield one.node, f"makes {one.target} raise"


def zero_measured(module: Module, test: Case) -> Acts:
    """Walk where a test makes a measured quantity zero, or expects a division by zero."""
    for call, name, value in test.keywords():
        if number(value) == 0 and _ZEROED.match(name):
            yield call, f"hands over {name}=0"
    for one in replacements(module, test):
        if _CLOCK.search(one.target) and number(one.value) is not None:
            yield one.node, f"stops {one.target}"
    for call in test.calls:
        if called(call) in ("raises", "assertRaises") and any(key(a) == "ZeroDivisionError" for a in call.args):
            yield call, "expects a ZeroDivisionError"


def construction_fails(module: Module, test: Case) -> Acts:
    """Walk where a test makes the construction of a scaler raise."""
    for one in replacements(module, test):
        if one.raises and one.target.split(".")[-1].endswith("GradScaler"):
            yield one.node, f"makes {one.target} raise"


def non_finite(_: Module, test: Case) -> Acts:
    """Walk where a test feeds NaN or infinity as data, loss or gradient."""
    trains = any(called(call) in _TRAINS for call in test.calls) or re.search(r"loss|grad", test.name)
    for call in test.calls:
        filled = [*call.args, *(k.value for k in call.keywords)] if trains and called(call) in _FILLED else []
        named = [k.value for k in call.keywords if k.arg and re.search(r"(loss|grad)$", k.arg)]
        if any(_is_bad(value) for value in (*filled, *named)):
            yield call, f"feeds a non-finite value to {called(call)}()"
    for node, place, value in test.assigned():
        if re.search(r"(^|[._])(loss|grad)$", place) and _is_bad(value):
            yield node, f"makes {place} non-finite"


def _is_bad(node: ast.expr) -> bool:
    """Whether a value is NaN or infinity; minus infinity is what masks are made of."""
    value = number(node)
    return value is not None and (math.isnan(value) or value == math.inf)


def damaged(_: Module, test: Case) -> Acts:
    """Walk where a test loads from a file that is damaged or not there."""
    loads = next(
        (call for call in test.calls if _LOADS.search(called(call)) or called(call) == "from_pretrained"), None
    )
    if loads is None:
        return
    for call in test.calls:
        if called(call) in ("raises", "assertRaises") and any(_DAMAGED.search(key(a) or "") for a in call.args):
            yield call, f"expects {key(call.args[0])} from {called(loads)}()"
        elif called(call) in _DAMAGE and call.lineno <= loads.lineno and "heckpoint" in test.function.name:
            yield call, f"damages a file before {called(loads)}()"


def resumes(_: Module, test: Case) -> Acts:
    """Walk where a test goes on from saved state."""
    for call, name, value in test.keywords():
        if re.match(r"resume(_from\w*)?$", name) and not is_constant(value, None, False, *_RUN_WORDS):
            yield call, f"runs with {name}="
    saves = [c for c in test.calls if _handles_state(c, "save")]
    loads = [c for c in test.calls if _handles_state(c, "load")]
    if saves and loads and saves[0].lineno <= loads[-1].lineno and saves[0] is not loads[-1]:
        yield loads[-1], f"saves by {called(saves[0])}() and loads by {called(loads[-1])}()"


def _handles_state(call: ast.Call, verb: str) -> bool:
    name = called(call)
    if name == verb:
        return key(receiver(call)) == "torch"
    return re.fullmatch(rf"_?{verb}_(\w+_)?(checkpoint|ckpt|state|training_state)", name) is not None


def nothing(_: Module, __: Case) -> Acts:
    """Walk nothing: for a scenario that is judged over all tests together."""
    yield from ()
