"""Checkpoints that cannot run code."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import GoodPractice
from ampguard.auditing.practices._base import Practice
from ampguard.auditing.reading.checkpoints import torch_loads
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument


class SafeLoad(Practice):
    """`torch.load` is told to read weights only, so that a checkpoint from elsewhere cannot run code."""

    name = "safe-load"
    title = "Safe load"
    words = ("weights_only",)

    def check(self, module: Module) -> Iterator[GoodPractice]:
        """Yield the loads with `weights_only=True`."""
        for call in torch_loads(module):
            given = argument(call, None, "weights_only")
            if isinstance(given, ast.Constant) and given.value is True:
                yield self.practice(module, call, "The checkpoint is read with `weights_only=True`: it cannot run code")
