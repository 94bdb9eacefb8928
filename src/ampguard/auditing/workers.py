"""Many files over a few processes, with answers that do not depend on how they were shared out.

The files are cut, in the order of their paths, into chunks of equal bytes: neighbours import each other, and a
process keeps what it has parsed for another file's sake. A process that is killed (out of memory, say) costs its
chunk nothing: the files are tried again one by one in a process of their own, and only the one that kills it again is
given up.
"""

import gc
import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from pathlib import Path

from ampguard.auditing.analyst import Analyst, Answer, Places, Tell
from ampguard.auditing.config import AuditConfig
from ampguard.auditing.findings import Unreadable
from ampguard.auditing.practices import all_practices
from ampguard.auditing.reading.source import Source
from ampguard.auditing.selection import chosen_rules

CHUNKS = 24
"""Chunks a process: enough that the last one to finish keeps the others waiting for a fortieth of the time."""


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


def shared(names: list[str], places: Places, config: AuditConfig, tell: Tell) -> dict[str, Answer] | None:
    """Return what became of each file, in any order; None where no processes can be started here.

    Args:
        names: What to analyse, of `places`.
        places: Name in reports -> where the file is, or its text.
        config: The audit's options; `processes` of them work at most.
        tell: Told as files are done.
    """
    context = _context(config)
    if context is None:
        return None
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
