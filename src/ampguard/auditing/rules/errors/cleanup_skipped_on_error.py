"""Something that is taken and given back, except when the lines between fail."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver, walk_scope
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.errors._groups import WORDS as GROUPS
from ampguard.auditing.rules.errors._groups import groups_left
from ampguard.auditing.rules.errors._restored import WORDS, restored_unsafely

_LOCK = regex(r"(^|[._])\w*(lock|mutex|sem|semaphore|cond|condition)$", re.IGNORECASE)
_SAFE = frozenset(
    {"print", "len", "str", "int", "isinstance", "append", "range", "time", "perf_counter", "info", "debug"}
)

_OPENERS = {
    "open": ("close", "the file"),
    "socket.socket": ("close", "the socket"),
    "zipfile.ZipFile": ("close", "the archive"),
    "tarfile.open": ("close", "the archive"),
    "sqlite3.connect": ("close", "the connection"),
    "multiprocessing.Pool": ("close terminate join", "the pool"),
    "torch.multiprocessing.Pool": ("close terminate join", "the pool"),
    "concurrent.futures.ThreadPoolExecutor": ("shutdown", "the pool"),
    "concurrent.futures.ProcessPoolExecutor": ("shutdown", "the pool"),
    "subprocess.Popen": ("terminate kill", "the process"),
    "tempfile.TemporaryDirectory": ("cleanup", "the folder"),
}
"""What is constructed -> the methods that give it back, and how it is called."""

_PAIRS = {
    "tempfile.mkdtemp": ("shutil.rmtree", "the temporary folder"),
    "torch.distributed.init_process_group": ("torch.distributed.destroy_process_group", "the process group"),
}
"""A function that takes -> the function that gives back."""


_GROUP_LEFT = (
    "NCCL warns of the leak at the end, and where one rank fails the others may wait for it until they time out."
)
_DESTROY = "Call `torch.distributed.destroy_process_group()` in a `finally` around the training."


class CleanupSkippedOnError(Rule):
    """A file, a lock, a process or a folder is given back only if nothing in between fails.

    ## What it does
    Looks at pairs in one block: `x = open(...)` and `x.close()`, `lock.acquire()` and `lock.release()`,
    `tempfile.mkdtemp()` and `shutil.rmtree()`, `init_process_group()` and `destroy_process_group()`, with calls between
    them and neither `with` nor `try ... finally`. A lock is medium, a folder or a process low, a process group
    information (the process mostly ends with the error). Low, too: a `@contextmanager` whose lines behind `yield` put
    something back, and an attribute that is kept under a name (`old = x.mode`), changed, and given back. A process
    group that is set up and that nothing in the project destroys is information.

    ## Why is this bad
    The lock stays taken and the next thread waits for ever; the process runs on; the disk fills with folders.

    ## Example
    ```python
    import threading

    lock = threading.Lock()


    def record(store, row):
        lock.acquire()
        store.write(row)
        lock.release()
    ```

    ## Use instead
    ```python
    import threading

    lock = threading.Lock()


    def record(store, row):
        with lock:
            store.write(row)
    ```

    ## Fix safety
    Safe: `with` and `finally` do the same where nothing fails.

    ## References
    - [The with statement](https://docs.python.org/3/reference/compound_stmts.html#the-with-statement)
    - ruff SIM115 asks for `with` around `open`.
    """

    code = "ERR012"
    name = "cleanup-skipped-on-error"
    severity = Severity.LOW
    likelihood = "possible"
    impact = "After an error in between, it stays taken."
    risk = "None: `with` and `finally` do the same where nothing fails."
    fix = "Use `with`, or put the clean-up into `finally`."
    words = (
        *(".close()", ".release()", "rmtree(", "destroy_process_group(", ".terminate()", ".kill()", ".cleanup()"),
        ".shutdown(",
        *WORDS,
        *GROUPS,
    )
    ruff = ("SIM115",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every taking whose giving back an error would skip."""
        for last in module.calls_of(
            "close", "release", "rmtree", "destroy_process_group", "terminate", "kill", "cleanup", "shutdown"
        ):
            block, position = _block(module, last)
            for first in reversed(block[:position]):
                taken = _taken(module, first, last)
                if taken is not None:
                    if _may_fail(block[block.index(first) + 1 : position], last):
                        yield self._report(module, first, last, *taken)
                    break
        for found in restored_unsafely(module):
            when = "the `with` block" if found.by_yield else "a line in between"
            message = f"`{found.what}` (line {found.back.lineno}) is skipped where {when} fails: no `finally` holds it"
            yield self.finding(module, found.change, message)
        for call in groups_left(module):
            message = (
                "nothing in this project destroys the process group that is set up here, at the end or on an error"
            )
            yield self.finding(module, call, message, severity=Severity.INFO, impact=_GROUP_LEFT, fix=_DESTROY)

    def _report(self, module: Module, first: ast.stmt, last: ast.Call, what: str, severity: Severity) -> Finding:
        message = f"{what} taken here stays so if the lines before {module.segment(last)} (line {last.lineno}) fail"
        return self.finding(module, first, message, severity=severity)


def _block(module: Module, call: ast.Call) -> tuple[list[ast.stmt], int]:
    """Return the block that the call is a statement of, and its place there; nothing where it is in `finally`."""
    statement = module.tree.parents[call]
    if not isinstance(statement, ast.Expr):
        return [], 0
    parent = module.tree.parents[statement]
    for name in ("body", "orelse"):
        block = getattr(parent, name, None)
        if isinstance(block, list) and statement in block and not isinstance(parent, ast.ExceptHandler):
            return block, block.index(statement)
    return [], 0


def _taken(module: Module, first: ast.stmt, last: ast.Call) -> tuple[str, Severity] | None:
    """Return what the statement takes that `last` gives back, and how bad it is when it does not."""
    call = first.value if isinstance(first, ast.Assign | ast.Expr) else None
    if not isinstance(call, ast.Call):
        return None
    owner = key(receiver(last))
    if called(call) == "acquire" and called(last) == "release":
        place = key(receiver(call))
        return (place or "", Severity.MEDIUM) if place == owner and place and _LOCK.search(place) else None
    for opener, (closers, what) in _OPENERS.items():
        if module.names.stands_for(call.func, opener) and called(last) in closers.split():
            return (what, Severity.LOW) if isinstance(first, ast.Assign) and owner == key(first.targets[0]) else None
    for opener, (closer, what) in _PAIRS.items():
        if module.names.stands_for(call.func, opener) and module.names.stands_for(last.func, closer):
            if isinstance(first, ast.Assign) and (not last.args or key(last.args[0]) != key(first.targets[0])):
                return None
            return what, Severity.LOW if isinstance(first, ast.Assign) else Severity.INFO
    return None


def _may_fail(between: list[ast.stmt], last: ast.Call) -> bool:
    """Whether a statement in between calls something that is not the thing itself nor plainly harmless."""
    owner = key(receiver(last))
    for statement in between:
        if isinstance(statement, ast.Try) and statement.finalbody:
            continue
        for node in (statement, *walk_scope(statement)):
            if isinstance(node, ast.Raise):
                return True
            if isinstance(node, ast.Call) and called(node) not in _SAFE and (not owner or key(receiver(node)) != owner):
                return True
    return False
