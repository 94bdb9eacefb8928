"""Runs in a mode that nobody has chosen, outside of evaluations: told low, by what their file and project say."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._evaluation.generating_wrappers import generated_in_any_mode
from ampguard.auditing.rules.amp._evaluation.judged_while_training import judged_while_training
from ampguard.auditing.rules.amp._evaluation.predicted_unlike_others import predicted_unlike_others
from ampguard.auditing.rules.amp._evaluation.probed import probed_in_training

WORDS = ("volatile", "def predict", "def infer", ".shape", ".generate(", ".append(")
"""Words of files in which such a run may stand, though they say nothing of modes."""


def judged_elsewhere(module: Module) -> Iterator[tuple[ast.Call, str, str]]:
    """Walk (the run, what is wrong, the fix) of every such run."""
    if module.role in ("test", "benchmark") or "torch" not in module.text:
        return
    for walk in (probed_in_training, predicted_unlike_others, judged_while_training, generated_in_any_mode):
        yield from walk(module)
