"""An import that fails, and a feature that is then left out without a word."""

import ast
import sys
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.handlers import Catch
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.errors._mend import tell_before
from ampguard.auditing.rules.errors._verdict import verdicts


class SilentImportError(Rule):
    """A package is missing, and the feature that needs it is skipped without telling anybody.

    ## What it does
    Reports `except ImportError: return` (or `pass`) behind an import, where nothing is logged or raised and no flag
    or stand-in is set that other code could ask. Where a comment says why, it is information.

    ## Why is this bad
    The user asked for a plot, a tracker or a fast kernel, gets none, and is not told that one `pip install` is
    missing.

    ## Example
    ```python
    def plot_curves(history):
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            return
        plt.plot(history["loss"])
        plt.savefig("loss.png")
    ```

    ## Use instead
    ```python
    def plot_curves(history):
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            print("matplotlib is not installed: the curves are not drawn (pip install matplotlib)")
        else:
            plt.plot(history["loss"])
            plt.savefig("loss.png")
    ```

    ## Fix safety
    One more line of output. In a function that is called often, tell once.

    ## References
    - [Python's `ImportError`](https://docs.python.org/3/library/exceptions.html#ImportError) is also raised by a
      package that is there but broken.
    """

    code = "ERR003"
    name = "silent-import-error"
    severity = Severity.LOW
    impact = "The user is not told why the feature is missing, nor which package to install."
    risk = "None: one more line of output."
    fix = "Say which package is missing and what is left out, or raise with the install command."
    words = ("ImportError", "ModuleNotFoundError")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every import whose failure skips something silently."""
        for verdict in verdicts(module, self.code):
            package, skipped = _package(verdict.catch), _skipped(verdict.catch)
            yield self.finding(
                module,
                verdict.catch.node,
                f"{package} may be missing, and {skipped} is skipped without telling",
                severity=verdict.severity,
                edit=tell_before(verdict.catch, f"{package} is not available: {skipped} is skipped"),
            )


def _package(catch: Catch) -> str:
    first = _foreign(catch)
    if isinstance(first, ast.ImportFrom):
        return ("." * first.level + (first.module or "")) or "the package"
    return first.names[0].name.split(".")[0] if isinstance(first, ast.Import) else "the package"


def _foreign(catch: Catch) -> ast.stmt:
    """Return the first import of the block that is not of the standard library."""
    imports = [s for s in catch.guarded if isinstance(s, ast.Import | ast.ImportFrom)]
    own = [
        s
        for s in imports
        if (s.names[0].name if isinstance(s, ast.Import) else s.module or ".").split(".")[0]
        not in sys.stdlib_module_names
    ]
    return (own or imports)[0]


def _skipped(catch: Catch) -> str:
    return catch.module.tree.qualname(catch.node) or "what needs it"
