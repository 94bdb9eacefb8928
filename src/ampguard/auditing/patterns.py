"""Regular expressions that are compiled when they are first asked.

The rules hold some five hundred, and an audit asks a third of them: to compile all at import was a tenth of a short
audit's time.
"""

import re
from typing import Any, cast


def regex(text: str, flags: int = 0) -> re.Pattern[str]:
    """Return what `re.compile` would, compiled at the first question to it; a wrong `text` raises re.error then."""
    return cast("re.Pattern[str]", _Lazy(text, flags))


class _Lazy:
    """Stands for a pattern, and takes over each method when it is first asked for, so that later calls are direct."""

    def __init__(self, text: str, flags: int) -> None:
        self._given = text, flags

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what copies and pickles ask for
            raise AttributeError(name)
        value = getattr(re.compile(*self._given), name)  # `re` itself remembers what it compiled last
        setattr(self, name, value)
        return value

    def __repr__(self) -> str:
        return f"regex{self._given!r}"
