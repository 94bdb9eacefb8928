"""What may run a file of models and losses under autocast that opens none itself: a trainer, or a framework.

A framework is told of mixed precision in another file, or on the command line that starts it; where it is not read
which, the project's use of the framework is all there is to go by.
"""

import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.project import Project

_LIGHTNING = regex(r"^\s*(import|from)\s+(pytorch_)?lightning\b", re.MULTILINE)
_HALF_BY_OPTION = regex(r"precision\s*=[^\n]*\b16\b|precision\s*=\s*['\"](16|bf16)|mixed_precision|use_amp|use_fp16")
_TRAINERS = {
    "pytorch-accelerated's Trainer": regex(r"\bpytorch_accelerated(\.trainer)?( import (\([^)]*|.*)|\.)\bTrainer\b"),
    "detectron2's AMPTrainer": regex(r"\bAMPTrainer\("),
    "mmengine's AmpOptimWrapper": regex(r"\bAmpOptimWrapper\b|\bFp16OptimizerHook\b"),
    "fastai's to_fp16": regex(r"\.to_fp16\(\)"),
    "transformers' fp16 option": regex(r"TrainingArguments\((?:[^()]|\([^()]*\))*?\b(fp16|bf16)\s*=\s*(?!False)\w"),
    "Lightning's `precision` option": regex(r"\bTrainer\((?:[^()]|\([^()]*\))*?\bprecision\s*=\s*['\"]?(16|bf16)"),
}
"""Frameworks that compute the loss under autocast, and what a project says that trains by one with it."""

_WORDS = (
    "pytorch_accelerated",
    "AMPTrainer",
    "AmpOptimWrapper",
    "Fp16OptimizerHook",
    "to_fp16",
    "Trainer(",
    "TrainingArguments(",
)
_SCALES = (".scale(", "ccelerat", "bfloat16")
"""What stands beside an autocast that trains: a scaler, an Accelerator, or a type that needs neither."""


def trained_under_autocast(module: Module) -> str | None:
    """Return what runs the code of a file under autocast, as the end of a sentence; None where nothing does."""
    trainer = _trains_under_autocast(module)
    if trainer is not None:
        return f"under which {trainer} trains"
    if _LIGHTNING.search(module.text):
        whose = "this project's" if module.project.says(_HALF_BY_OPTION) else "Lightning's"
        return f"which {whose} `precision` option switches on"
    by = next((name for name, says in _TRAINERS.items() if module.project.says(says, *_WORDS)), None)
    return f"which {by} switches on" if by is not None else None


def _trains_under_autocast(module: Module) -> str | None:
    """Return a file of the project that trains under autocast, None where there is none."""
    memo, project = module.project.memo, module.project
    if "trains under autocast" not in memo:
        memo["trains under autocast"] = next((name for name in project.files if _trainer(project, name)), None)
    found: str | None = memo["trains under autocast"]
    return found


def _trainer(project: Project, name: str) -> bool:
    if name.endswith("__init__.py") or "test" in name or not project.holds(name, ("autocast(",)):
        return False
    return project.holds(name, (".backward(",)) and project.holds(name, _SCALES)
