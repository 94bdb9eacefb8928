"""Run the rows in turn, block by block, each in its own process, and collect their times."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from worker import Row, Trained, work

PRECISIONS = ("fp32", "bf16-mixed")

Seconds = dict[Row, list[float]]
"""The duration of every block, by row."""

ORDER_SEED = 0


def measure(
    name: str, loops: Sequence[str], *, blocks: int, tell: Callable[[str], None]
) -> tuple[Seconds, dict[Row, Trained]]:
    """Return the seconds of every block of every row, and what each row's loop made of the subject.

    Args:
        name: The subject's key in SUBJECTS.
        loops: The rows' loops.
        blocks: Blocks of each row.
        tell: Takes a line of progress now and then.
    """
    rows = [(loop, precision) for precision in PRECISIONS for loop in loops]
    with _started(name, rows, blocks) as pipes:
        trained = {row: _take_turn(pipe, row) for row, pipe in pipes.items()}
        tell(f"{name}: {len(rows)} rows have started")
        for row, pipe in pipes.items():
            _take_turn(pipe, row)
        tell(f"{name}: all are warm")
        return _in_turn(pipes, blocks, lambda done: tell(f"{name}: block {done} of {blocks}")), trained


@contextmanager
def _started(name: str, rows: list[Row], blocks: int) -> Iterator[dict[Row, Connection]]:
    """Start a process a row; wait for their end, or end them where this process fails."""
    context = get_context("spawn")
    pipes, processes = {}, []
    try:
        for row in rows:
            pipes[row], end = context.Pipe()
            processes.append(context.Process(target=work, args=(end, name, row, blocks), daemon=True))
            processes[-1].start()
            # Kept open here, it would hide that the process has died.
            end.close()
        yield pipes
    except BaseException:
        for process in processes:
            # Lightning outlives a SIGTERM.
            process.kill()
        raise
    for row, process in zip(rows, processes, strict=True):
        process.join()
        if process.exitcode:
            raise _failed(row)


def _in_turn(pipes: dict[Row, Connection], blocks: int, tell: Callable[[int], None]) -> Seconds:
    """Run all blocks, the rows of each in an order drawn anew."""
    seconds: Seconds = {row: [] for row in pipes}
    order, draw = list(pipes), random.Random(ORDER_SEED)
    for block in range(1, blocks + 1):
        draw.shuffle(order)
        for row in order:
            seconds[row].append(_take_turn(pipes[row], row))
        if block % max(1, blocks // 10) == 0:
            tell(block)
    return seconds


def _take_turn(pipe: Connection, row: Row) -> Any:
    """Let a row do its next part and return what it sends."""
    try:
        pipe.send(None)
        return pipe.recv()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise _failed(row) from None


def _failed(row: Row) -> RuntimeError:
    return RuntimeError(f"row {' '.join(row)} failed: its traceback stands above.")
