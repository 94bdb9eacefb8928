"""Forward passes that record for nobody, outside of what evaluates: told low, by what their file says of them."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._evaluation.answers import recorded_answers
from ampguard.auditing.rules.amp._evaluation.collected_outputs import collected_outputs
from ampguard.auditing.rules.amp._evaluation.generating_wrappers import generated_with_gradients
from ampguard.auditing.rules.amp._evaluation.off_in_one_arm import off_in_one_arm
from ampguard.auditing.rules.amp._evaluation.pretrained_runs import pretrained_runs
from ampguard.auditing.rules.amp._evaluation.put_into_eval_and_run import put_into_eval_and_run
from ampguard.auditing.rules.amp._evaluation.recorded_in_any_phase import recorded_in_any_phase
from ampguard.auditing.rules.amp._evaluation.switched_on_again import switched_on_again
from ampguard.auditing.rules.amp._evaluation.thrown_away import thrown_away

WORDS = ("no_grad", "inference_mode", "set_grad_enabled", "from_pretrained(", "load_", ".generate(", ".eval()")
"""Words of files in which such a pass may stand, though they judge and train nothing."""

_WALKS = (
    recorded_in_any_phase,
    switched_on_again,
    off_in_one_arm,
    pretrained_runs,
    collected_outputs,
    put_into_eval_and_run,
    thrown_away,
    generated_with_gradients,
    recorded_answers,
)


def recorded_elsewhere(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the run, what is wrong) of every such forward pass."""
    if module.role in ("test", "benchmark") or "torch" not in module.text:
        return
    for walk in _WALKS:
        yield from walk(module)
