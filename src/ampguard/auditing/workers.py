"""Many files over a few processes, with answers that do not depend on how they were shared out.

The files are cut, in the order of their paths, into chunks of equal bytes: neighbours import each other, and a
process keeps what it has parsed for another file's sake. A process that is killed (out of memory, say) costs its
chunk nothing: the files are tried again one by one in a process of their own, and only the one that kills it again is
given up.

The garbage collector is off meanwhile: a syntax tree is some hundred thousand objects, and the collector would walk
them over and over for nothing, since files that nobody reads any more are let go without it (`Module.forget`).
"""

import gc
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path

from ampguard.auditing.analyse import analyse
from ampguard.auditing.config import AuditConfig
from ampguard.auditing.findings import FileResult, Unreadable
from ampguard.auditing.practices import all_practices
from ampguard.auditing.reading.project import Project
from ampguard.auditing.reading.source import Source
from ampguard.auditing.selection import chosen_rules

FEW = 40
"""Files up to which one process is faster than several. Measured: a pool takes about 0.1 s to start and stop."""

CHUNKS = 24
"""Chunks a process: enough that the last one to finish keeps the others waiting for a fortieth of the time."""

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
    context = _context(config) if _worth_sharing(names, config) else None
    with _without_collection():
        if context is None:
            return _here(names, places, config, tell)
        found = _shared(names, places, config, tell, context)
    return {name: found[name] for name in names}


def chunks_of(sizes: Sequence[int], count: int) -> list[slice]:
    """Return slices that cut a list of sizes, in its order, into at most `count` parts of about equal sums."""
    wanted = max(1, sum(sizes) // max(1, count))
    cuts, held = [0], 0
    for position, size in enumerate(sizes):
        if held and held + size / 2 > wanted:
            cuts.append(position)
            held = 0
        held += size
    return [slice(a, b) for a, b in zip(cuts, [*cuts[1:], len(sizes)], strict=True) if b > a]


def _worth_sharing(names: list[str], config: AuditConfig) -> bool:
    many = len(names) > 1 if config.workers > 1 else len(names) > FEW
    return many and config.processes > 1


def _here(names: list[str], places: Places, config: AuditConfig, tell: Tell) -> dict[str, Answer]:
    analyst, found = Analyst(places, config), {}
    for done, name in enumerate(names, 1):
        found[name] = analyst.answer(name)
        tell(done, len(names))
    return found


def _shared(
    names: list[str], places: Places, config: AuditConfig, tell: Tell, context: BaseContext
) -> dict[str, Answer]:
    processes = min(config.processes, len(names))
    slices = chunks_of([_size(places[name]) for name in names], processes * CHUNKS)
    found: dict[str, Answer] = {}
    for answered in _pooled([names[part] for part in slices], processes, places, config, context):
        found |= answered
        tell(len(found), len(names))
    for name in names:
        if name not in found:
            found[name] = _alone(name, places, config, context)
            tell(len(found), len(names))
    return found


def _pooled(
    chunks: list[list[str]], processes: int, places: Places, config: AuditConfig, context: BaseContext
) -> Iterator[dict[str, Answer]]:
    """Yield the answers of each chunk as it is done; nothing for chunks whose process was killed."""
    others = set(multiprocessing.active_children())
    chosen_rules(config), all_practices()  # loaded before the processes part, which then share them
    pool = ProcessPoolExecutor(processes, context, _start, (places, config))
    try:
        futures = [pool.submit(_work, chunk) for chunk in chunks]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        return
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _alone(name: str, places: Places, config: AuditConfig, context: BaseContext) -> Answer:
    """Analyse one file in a process of its own."""
    for answered in _pooled([[name]], 1, places, config, context):
        return answered[name]
    return Answer(None, (Unreadable(path=name, reason="killed the process that analysed it, twice (out of memory?)"),))


_analyst: list[Analyst] = []
"""The worker process's own; one process works for one audit."""


def _start(places: Places, config: AuditConfig) -> None:
    # Ctrl-C is for the parent to answer: it ends its processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()
    _analyst[:] = [Analyst(places, config)]
    gc.freeze()


def _work(names: list[str]) -> dict[str, Answer]:
    return {name: _analyst[0].answer(name) for name in names}


def _context(config: AuditConfig) -> BaseContext | None:
    """Return how processes are started here; None where that could run the caller's own script again."""
    if sys.platform == "linux" and threading.active_count() == 1 and "torch" not in sys.modules:
        return multiprocessing.get_context("fork")
    # A spawned process imports the script that started it: harmless for ours, asked for where `workers` is given.
    return multiprocessing.get_context("spawn") if config.workers > 1 or _is_command() else None


def _is_command() -> bool:
    """Whether this process is `ampguard` itself, not a script that calls `ampguard.audit`."""
    main = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    return spec.name.startswith("ampguard.") if spec is not None else Path(file or "").stem == "ampguard"


def _size(place: Path | Source) -> int:
    if isinstance(place, Source):
        return len(place.text)
    try:
        return place.stat().st_size
    except OSError:
        return 0


@contextmanager
def _without_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
