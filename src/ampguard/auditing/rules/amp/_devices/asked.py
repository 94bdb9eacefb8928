"""Whether a file asks for the device that it runs on, and where it says that a CPU will do."""

import re
from functools import lru_cache

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.project import Project
from ampguard.auditing.reading.source import lines_about
from ampguard.auditing.reading.tree import Function
from ampguard.auditing.rules.amp._steps import callers, tests_above

_ASKS = regex(
    r"is_available|device_count|--device|--gpu|--cuda|--no.?cuda|['\"]cpu|LOCAL_RANK|init_process_group|local_rank"
    r"|current_accelerator|get_device|device_type|CUDA_VISIBLE|\.accelerator|torch\.device\([a-z]"
)
"""A file with one of these asks for the device, is told it, or is started by a launcher for GPUs."""

_FALLS_BACK = regex(
    r"is_available\(\)(\s+and\b[^\n]*)?\s*else\s*(torch\.device\()?['\"]cpu"
    r"|['\"]cuda(:0)?['\"]\)?[ \t]+if\b[^\n]*\belse\s+(torch\.device\()?['\"]cpu['\"]"
    r"|['\"]cpu['\"]\)?[ \t]+if\b[^\n]*\belse\s+(torch\.device\()?f?['\"]cuda"
)
_READS_ON_CPU = regex(r"map_location\s*=\s*(torch\.device\()?['\"]cpu['\"]")
"""A checkpoint that is read on the CPU says nothing of where the model runs."""

_BROUGHT_BACK = regex(r"\.to\(\s*['\"]cpu['\"]\s*[,)]")
"""Nor does a result that is brought back to it."""

_SPELLED_OUT = regex(
    r"device_type\s*=\s*['\"]cuda['\"]|cuda\.get_device_(name|properties|capability)|torch\.device\(f['\"]cuda"
    r"|device_count\(\)\s*>\s*1\b|per_node\s*=\s*torch\.cuda\.device_count|range\(torch\.cuda\.device_count"
)
"""Nor does what is written down as CUDA, asks a GPU for its name, or for how many GPUs there are beside one.

What trains nothing may be made for GPUs alone.
"""

_SPREAD = regex(r"set_device\([^\n]*%\s*torch\.cuda\.device_count\(\)")
_SPARED = (_READS_ON_CPU, _BROUGHT_BACK, _SPREAD)
_STARTS_JOB = regex(r"(?i)dist(ributed)?(?![a-z])|ddp|process_group|multi_?gpu")


def asks(module: Module) -> bool:
    """Whether something in the file asks for the device; what an optional distributed start asks does not count."""
    left = _asked_at(module.text)
    launched = bool(left) and all(_LAUNCHED.match(module.text, at) for at in left)
    if launched and trains(module.text) and _ALONE.search(module.about("rank", "world_size")):
        return False
    if not left or "init_process_group" not in module.text:
        return bool(left)
    starts = optional_starts(module)
    lines = [module.text.count("\n", 0, at) + 1 for at in left]
    return not all(any(f.lineno <= line <= (f.end_lineno or 0) for f in starts) for line in lines)


_LAUNCHED = regex(r"LOCAL_RANK|local_rank|init_process_group")
_ALONE = regex(
    r"RANK['\"],\s*['\"]?-1\b|local_rank\s*(==|!=|>|<=?|is not|is)\s*(-1|None)"
    r"|(WORLD_SIZE|world_size)\W[^\n]*(>|==)\s*1\b"
)
"""Tests of whether a launcher has started several processes: the file runs without one as well."""


def asks_in(text: str) -> bool:
    """Whether a part of a file asks for the device."""
    return bool(_asked_at(text))


def asks_which(text: str) -> bool:
    """Whether a file asks for no more than which of the GPUs it is to run on."""
    return all(_WHICH.match(text, at) for at in _asked_at(text))


_WHICH = regex(r"--gpu|CUDA_VISIBLE")


@lru_cache(maxsize=4)  # the same file is asked by several questions, one after the other
def _asked_at(text: str) -> list[int]:
    found = [m.start() for m in _ASKS.finditer(text)]
    apart = (*_SPARED, _SPELLED_OUT) if trains(text) else _SPARED
    spared = [m.span() for p in apart for m in p.finditer(text)] if found else []
    return [at for at in found if not any(first <= at < last for first, last in spared)]


def optional_starts(module: Module) -> list[Function]:
    """Return the functions that start a distributed job, of a file that runs without one as well."""
    if "init_process_group" not in module.text:
        return []
    return [f for f in module.functions if _STARTS_JOB.search(f.name) and _is_optional(module, f)]


def _is_optional(module: Module, function: Function) -> bool:
    """Whether the file calls a function only where a test says so."""
    calls = callers(module, function)
    return bool(calls) and all(any(True for _ in tests_above(module, call)) for call in calls)


def trains(text: str) -> bool:
    """Whether a text runs a backward pass and a step."""
    return "backward(" in text and ".step(" in text


@lru_cache(maxsize=4)
def fallback(text: str) -> re.Match[str] | None:
    """Return where the CPU is chosen in place of a GPU: `"cuda" if torch.cuda.is_available() else "cpu"`.

    Also by a statement of its own, `device = "cpu"` or `return "cpu"` in a file that asks for a GPU, and by a flag that
    is asked before things are moved: `use_cuda = torch.cuda.is_available()`, `if use_cuda:`.
    """
    found = _FALLS_BACK.search(text) if "cpu" in text else None
    if found is not None or "is_available" not in text:
        return found
    return _CHOOSES.search(text) or next((m for m in _FLAG.finditer(text) if _is_asked(text, m["flag"])), None)


def falls_back_somewhere(project: Project) -> bool:
    """Whether any file of the project that is no test chooses the CPU in place of a GPU."""
    return project.says(_FALLS_BACK, "is_available") or project.says(_CHOOSES, "is_available")


_CHOOSES = regex(
    r"^[ \t]*(return|[\w.]*(?i:device)\w*[ \t]*(:[^=\n]+)?=)[ \t]*(torch\.device\()?['\"]cpu['\"]\)?[ \t]*(#[^\n]*)?$",
    re.MULTILINE,
)
_FLAG = regex(
    r"^[ \t]*(?P<flag>[\w.]*(?i:cuda|gpu)\w*)[ \t]*(:[^=\n]+)?=[ \t]*(not [\w.]+ and )?torch\.cuda\.is_available\(\)",
    re.MULTILINE,
)


def _is_asked(text: str, flag: str) -> bool:
    """Whether a text moves things only where a flag says so."""
    return re.search(rf"\bif {re.escape(flag)}\b", text) is not None


_CPU_MEANT = regex(r"(==|!=|\belse|default=|\bor)\s*(torch\.device\()?['\"]cpu['\"]")


def cpu_is_meant(text: str) -> bool:
    """Whether a text treats a CPU as a device that it may be run on: `if device.type != "cpu"`."""
    return bool(_CPU_MEANT.search(lines_about(text, ("cpu",))))
