"""Handlers that end the program and take the reason with them: a sentence, then `exit()`, and no word of the error."""

import ast

from ampguard.auditing.reading.handlers import Catch
from ampguard.auditing.reading.tree import key

_ENDS = frozenset({"exit", "quit", "sys.exit", "os._exit"})


def ends_untold(catch: Catch) -> bool:
    """Whether a handler of every error prints a text of its own and ends the program, without looking at the error.

    The block has to do more than import or ask the user: there the text may well be all there is to say.
    """
    if not catch.broad or catch.uses or catch.raised or not catch.logs or catch.module.role == "test":
        return False
    ended = any(key(call.func) in _ENDS for call in catch.calls)
    return ended and not all(isinstance(s, ast.Import | ast.ImportFrom) for s in catch.guarded)
