"""A training step whose errors reach the caller."""

from collections.abc import Iterator

from ampguard.auditing.findings import GoodPractice
from ampguard.auditing.practices._base import Practice
from ampguard.auditing.reading.handlers import catch_of
from ampguard.auditing.reading.kinds import critical_operation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function


class FailFastCriticalPath(Practice):
    """A function runs a whole training step, backward and the optimizer's step, with no handler around it.

    An error in a step leaves gradients and weights half changed. Letting it out at once is right: the caller stops, or
    restores a checkpoint.
    """

    name = "fail-fast-critical-path"
    title = "Fail-fast critical path"
    words = (".backward(",)

    def check(self, module: Module) -> Iterator[GoodPractice]:
        """Yield every function with a training step that nothing catches."""
        if module.role == "test":
            return
        steps: dict[Function, set[str]] = {}
        caught: set[Function] = set()
        for call in module.calls_of("backward", "step"):
            operation, function = critical_operation(module, call), module.tree.function(call)
            if operation is None or function is None:
                continue
            steps.setdefault(function, set()).add(operation)
            if any(
                not catch_of(module, handler).leaves
                for block in module.tree.handlers_around(call)
                for handler in block.handlers
            ):
                caught.add(function)
        for function, operations in steps.items():
            if "backward" in operations and len(operations) > 1 and function not in caught:
                name = module.tree.qualname(function)
                yield self.practice(module, function, f"Errors of the training step in {name} reach its caller")
