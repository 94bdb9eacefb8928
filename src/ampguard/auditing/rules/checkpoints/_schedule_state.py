"""What a file does with the state of its schedule, and whether anybody goes on from a checkpoint."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import is_optimizer, is_scheduler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.state_kinds import kinds_of_word
from ampguard.auditing.reading.tree import receiver

_METRIC = regex(r"loss|metric|acc|score|val|err|mean|avg|ppl|bleu|auc|f1|reward", re.IGNORECASE)
_WHEN = regex(r"epoch|step|iter", re.IGNORECASE)
_RESTORED = regex(r"\b\w*opt(im\w*)?(\[[^\]]*\])?\.load_state_dict\(")


def follows_metric(call: ast.Call) -> bool:
    """Whether a schedule is stepped with a loss or a metric, so that it keeps the best one and how long ago it was."""
    given = [*call.args, *(k.value for k in call.keywords)]
    words = " ".join(ast.unparse(value) for value in given)
    return bool(_METRIC.search(words)) and not _WHEN.search(words)


def restored_elsewhere(module: Module) -> bool:
    """Whether some file of the project goes on from a checkpoint: it loads an optimizer's state."""
    return module.project.says(_RESTORED, "load_state_dict")


def saved_as_none(module: Module) -> Iterator[ast.expr]:
    """Walk the keys of a scheduler that hold None in a state, where the file has one that is stepped or restored."""
    if not module.mentions(("sched",)) or any(is_scheduler(module, receiver(c)) for c in module.calls_of("state_dict")):
        return
    at_work = (c for c in module.calls_of("step", "load_state_dict") if is_scheduler(module, receiver(c)))
    states = [d for d in module.tree.all(ast.Dict) if len(d.keys) > 1] if any(True for _ in at_work) else []
    for state in states:
        pairs = [(k, v) for k, v in zip(state.keys, state.values, strict=True) if isinstance(k, ast.Constant)]
        kept = any(is_optimizer(module, receiver(v)) for _, v in pairs if isinstance(v, ast.Call))
        for name, value in pairs if kept else ():
            if (
                "scheduler" in kinds_of_word(str(name.value))
                and isinstance(value, ast.Constant)
                and value.value is None
            ):
                yield name
