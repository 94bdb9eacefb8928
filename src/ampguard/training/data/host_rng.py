"""The global generators of Python and NumPy, seeded for a while and put back, in a fifth of the time of their own ways.

Both are Mersenne Twisters: 624 words and a position, and half of a pair of normal draws that may be pending. Their own
getters make an object of each word, which takes longer than the step of a small model and drives that model out of the
processor's cache. So the words are copied as memory: NumPy's stand where `BitGenerator.ctypes` says, Python's behind
the head of the generator object. Each layout is compared once with what the getter tells; where it differs, the getter
is used.

Whether NumPy has a draw pending is asked by drawing: a pending one moves no word. Python's is an attribute.

Source: numpy/random/src/mt19937/mt19937.h (uint32 key[624]; int pos); CPython Modules/_randommodule.c (int index;
uint32_t state[624]).
"""

import ctypes
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

WORDS = 624
"""Words in the state of a Mersenne Twister."""
_BYTES = 4 * (WORDS + 1)

PutBack = Callable[[], None]


@contextmanager
def host_seeded(python_seed: int, numpy_seed: int) -> Iterator[None]:
    """Seed both generators inside and restore them after; NumPy's only where something has imported it.

    Args:
        python_seed: Any integer.
        numpy_seed: 0 to 2**32 - 1.
    """
    numpy = sys.modules.get("numpy")
    restore = [_keep_python()]
    if numpy is not None:
        restore.append(_keep_numpy(numpy.random))
        numpy.random.seed(numpy_seed)
    random.seed(python_seed)
    try:
        yield
    finally:
        for put_back in restore:
            put_back()


def python_bytes() -> tuple[bytes | None, float | None]:
    """Return Python's state as memory (position, words) and its pending draw; no bytes: the layout is unknown."""
    generator: Any = random.random.__self__  # type: ignore[attr-defined]
    known = _python_is_as_known()
    return (ctypes.string_at(_python_address(generator), _BYTES) if known else None), generator.gauss_next


def numpy_bytes(rng: Any) -> bytes | None:
    """Return NumPy's state as memory (words, position); None: the layout is unknown. Nothing is drawn."""
    generator = rng.get_bit_generator()
    kind: Any = type(generator)
    return ctypes.string_at(generator.ctypes.state_address, _BYTES) if _numpy_is_as_known(kind) else None


def numpy_pending(rng: Any) -> float | None:
    """Return NumPy's pending normal draw, None without one; the state is as before. Needs a layout that is known."""
    address = rng.get_bit_generator().ctypes.state_address
    words = ctypes.string_at(address, _BYTES)
    drawn = float(rng.standard_normal())
    if ctypes.string_at(address, _BYTES) == words:
        name, key, position, *_ = rng.get_state()
        rng.set_state((name, key, position, 1, drawn))
        return drawn
    # Drops the half that the draw has left pending.
    rng.seed(0)
    ctypes.memmove(address, words, _BYTES)
    return None


def _keep_python() -> PutBack:
    """Return what restores Python's generator to its state of now."""
    if not _python_is_as_known():
        state = random.getstate()
        return lambda: random.setstate(state)
    generator: Any = random.random.__self__  # type: ignore[attr-defined]
    address, pending = _python_address(generator), generator.gauss_next
    words = ctypes.string_at(address, _BYTES)

    def put_back() -> None:
        ctypes.memmove(address, words, _BYTES)
        generator.gauss_next = pending

    return put_back


def _keep_numpy(rng: Any) -> PutBack:
    """Return what restores NumPy's generator to its state of now."""
    generator = rng.get_bit_generator()
    kind: Any = type(generator)
    if not _numpy_is_as_known(kind):
        state = rng.get_state()
        return lambda: rng.set_state(state)
    address = generator.ctypes.state_address
    words = ctypes.string_at(address, _BYTES)
    drawn = rng.standard_normal()
    if ctypes.string_at(address, _BYTES) == words:
        name, key, position, *_ = rng.get_state()
        return lambda: rng.set_state((name, key, position, 1, drawn))

    def put_back() -> None:
        # Seeding drops a draw that was left pending inside.
        rng.seed(0)
        ctypes.memmove(address, words, _BYTES)

    return put_back


def _python_address(generator: random.Random) -> int:
    return id(generator) + object.__basicsize__


@cache
def _python_is_as_known() -> bool:
    """Return whether Python keeps a generator's state as this file reads it; one is made and compared."""
    if sys.implementation.name != "cpython":
        return False
    generator = random.Random(1)
    *words, position = generator.getstate()[1]
    return ctypes.string_at(_python_address(generator), _BYTES) == _bytes(position, *words)


@cache
def _numpy_is_as_known(kind: Any) -> bool:
    """Return whether a bit generator of this class keeps its state as this file reads it; one is made and compared."""
    if kind.__name__ != "MT19937":
        return False
    generator = kind(1)
    state = generator.state["state"]
    known = _bytes(*state["key"].tolist(), int(state["pos"]))
    return ctypes.string_at(generator.ctypes.state_address, _BYTES) == known


def _bytes(*words: int) -> bytes:
    return b"".join(word.to_bytes(4, sys.byteorder) for word in words)
