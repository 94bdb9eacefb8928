"""The files of one audit, analysed one after the other; over several processes where that is faster.

The garbage collector is off meanwhile: a syntax tree is some hundred thousand objects, and the collector would walk
them over and over for nothing, since files that nobody reads any more are let go without it (`Module.forget`).
"""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ampguard.auditing.analyse import analyse
from ampguard.auditing.config import AuditConfig
from ampguard.auditing.findings import FileResult, Unreadable
from ampguard.auditing.reading.project import Project
from ampguard.auditing.reading.source import Source
from ampguard.auditing.selection import chosen_rules

FEW = 40
"""Files up to which one process is faster than several. Measured: a pool takes about 0.1 s to start and stop."""

COLLECT_BYTES = 64_000_000
"""Bytes of source after which cycles are collected. Files let go of their own (`Module.forget`): a safety net."""

Places = Mapping[str, Path | Source]
Tell = Callable[[int, int], None]
"""Told how many files are done, and of how many."""


@dataclass(frozen=True)
class Answer:
    """What became of one file: its result, where it could be read, and what could not be done."""

    result: FileResult | None
    unreadable: tuple[Unreadable, ...] = ()


class Analyst:
    """Analyses files of one audit, in whatever process it stands.

    Args:
        places: Every file of the audit.
        config: The audit's options.
    """

    def __init__(self, places: Places, config: AuditConfig) -> None:
        self._rules = chosen_rules(config)
        self._project = Project(places, config)
        self._bytes = 0

    def answer(self, name: str) -> Answer:
        """Return what became of one file."""
        if name.endswith(".ipynb"):
            hint = f"is a notebook, which is not read; convert it: jupyter nbconvert --to script {name}"
            return Answer(None, (Unreadable(path=name, reason=hint),))
        module = self._project.module(name)
        if module is None:
            return Answer(None, (Unreadable(path=name, reason=self._project.why_unreadable(name)),))
        reasons: list[str] = []
        result = analyse(module, self._rules, failed=reasons.append)
        self._project.let_go(name)
        self._collect(len(module.text))
        return Answer(result, tuple(Unreadable(path=name, reason=reason) for reason in reasons))

    def _collect(self, read: int) -> None:
        self._bytes += read
        if self._bytes >= COLLECT_BYTES:
            self._bytes = 0
            gc.collect()


def answers(places: Places, config: AuditConfig, tell: Tell) -> dict[str, Answer]:
    """Return what became of each file, in the order of `places`.

    Args:
        places: Name in reports -> where the file is, or its text.
        config: The audit's options; `processes` of them work at most.
        tell: Told as files are done.
    """
    names = list(places)
    with _without_collection():
        if _worth_sharing(names, config):
            from ampguard.auditing.workers import shared  # what starts processes is not loaded for a few files

            found = shared(names, places, config, tell)
            if found is not None:
                return {name: found[name] for name in names}
        return _here(names, places, config, tell)


def _worth_sharing(names: list[str], config: AuditConfig) -> bool:
    many = len(names) > 1 if config.workers > 1 else len(names) > FEW
    return many and config.processes > 1


def _here(names: list[str], places: Places, config: AuditConfig, tell: Tell) -> dict[str, Answer]:
    analyst, found = Analyst(places, config), {}
    for done, name in enumerate(names, 1):
        found[name] = analyst.answer(name)
        tell(done, len(names))
    return found


@contextmanager
def _without_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
