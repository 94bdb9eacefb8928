"""A call that may wait for another machine for ever."""

from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.errors._network import WORDS, network_calls

_SEVERITY = {
    "requests": Severity.MEDIUM,
    "httpx": Severity.LOW,
    "urllib": Severity.LOW,
    "socket": Severity.LOW,
    "subprocess": Severity.INFO,
}


class MissingTimeout(Rule):
    """A request, a connection or a command over the network has no time limit.

    ## What it does
    Reports calls of `requests` (and of a `requests.Session`) without `timeout`, which is medium; `urlopen` and
    `socket.create_connection` without one and `httpx` with `timeout=None`, low; and `subprocess.run` of git, curl, pip
    and the like, as information. Calls with `**kwargs` and sessions with a mounted adapter are left alone.

    ## Why is this bad
    These calls wait for ever by default. When the other side accepts and then says nothing, the training process
    stands still, on all its devices, without an error.

    ## Example
    ```python
    import requests


    def fetch(url, path):
        path.write_bytes(requests.get(url).content)
    ```

    ## Use instead
    ```python
    import requests


    def fetch(url, path):
        path.write_bytes(requests.get(url, timeout=30).content)
    ```

    ## Fix safety
    A limit that is too short fails slow but healthy servers. In `requests` it bounds the time between bytes, not the
    whole download.

    ## References
    - [requests, timeouts](https://requests.readthedocs.io/en/latest/user/advanced/#timeouts)
    - ruff S113 asks the same of `requests` and `httpx`.
    """

    code = "ERR009"
    name = "missing-timeout"
    severity = Severity.MEDIUM
    likelihood = "possible"
    impact = "When the other side stops answering, the process stands still without an error."
    risk = "Low: a limit that is too short fails slow servers."
    fix = "Give `timeout=` in seconds."
    words = WORDS
    ruff = ("S113",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every network call without a time limit."""
        for found in network_calls(module):
            if not found.limited:
                yield self.finding(
                    module,
                    found.call,
                    f"{module.segment(found.call.func)}() has no time limit",
                    severity=_SEVERITY[found.library],
                )
