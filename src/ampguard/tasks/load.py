"""Import and run the user's own code so that it behaves as in a script, and so that its errors are its own.

A file is imported under a name made of its path and content: the same file is one module however often it is asked
for, a changed one is read anew, and its classes can be pickled. Its folder is on `sys.path` meanwhile, and it counts
as a package, so that `import neighbour` and `from .neighbour import x` both work.
"""

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType

from ampguard.errors import InputError, TaskError, did_you_mean

_PACKAGE = str(Path(__file__).parents[1])
_NOT_THE_USERS = (_PACKAGE, "<frozen importlib", str(importlib.__file__))


def import_file(path: Path) -> ModuleType:
    """Return the module of a `.py` file.

    Raises:
        TaskError: There is no such file, or importing it raised.
    """
    if not path.is_file():
        neighbours = [other.name for other in path.parent.glob("*.py")]
        raise TaskError(f"the file '{path}' does not exist.", hint=did_you_mean(path.name, neighbours))
    path = path.resolve()
    digest = hashlib.sha256(str(path).encode() + b"\0" + path.read_bytes()).hexdigest()[:12]
    name = f"ampguard_task_{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}_{digest}"
    return sys.modules[name] if name in sys.modules else _execute(name, path)


def import_named(name: str) -> ModuleType:
    """Return a module by its dotted name; the current folder is searched first.

    Raises:
        TaskError: There is no such module, or importing it raised.
    """
    with users_code(f"the module '{name}'", Path.cwd()):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise TaskError(
                f"there is no module '{name}' (no '{error.name}' in the current folder or on sys.path).",
                hint="Give a module name or the path of a .py file.",
            ) from error


@contextmanager
def users_code(what: str, folder: Path) -> Iterator[None]:
    """Run the user's code inside: its folder is importable, and what it raises becomes a TaskError.

    Args:
        what: What runs, for the message.
        folder: Goes first on `sys.path`, as for a script.
    """
    sys.path.insert(0, str(folder))
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        # SystemExit: a script without a `__main__` guard parses our arguments, and leaves.
        _cut_to_users_frame(error)
        raise TaskError(f"{what} raised {type(error).__name__}: {error}") from error
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _execute(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(path.parent)])
    if spec is None or spec.loader is None:
        raise TaskError(f"'{path}' is not a Python source file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with users_code(f"the file '{path}'", path.parent):
            spec.loader.exec_module(module)
    except InputError:
        del sys.modules[name]
        raise
    return module


def _cut_to_users_frame(error: BaseException) -> None:
    """Make the error's traceback start at the first frame that is neither ours nor the import system's."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        trace = trace.tb_next
    error.__traceback__ = trace
