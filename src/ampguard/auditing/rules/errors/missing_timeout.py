"""A call that may wait for another machine for ever."""

from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.errors._network import MORE_WORDS, WORDS, NetworkCall, lasting_calls, network_calls

_SEVERITY = {
    "requests": Severity.MEDIUM,
    "httpx": Severity.LOW,
    "urllib": Severity.LOW,
    "socket": Severity.LOW,
    "subprocess": Severity.INFO,
    "retrieve": Severity.LOW,
    "client": Severity.LOW,
    "group": Severity.INFO,
    "login": Severity.INFO,
}
_GROUP = "its ranks wait for each other as long as the backend's default says: 10 minutes with NCCL, 30 with others"


class MissingTimeout(Rule):
    """A request, a connection or a command over the network has no time limit.

    ## What it does
    Reports calls of `requests` (and of a `requests.Session`) without `timeout`, which is medium; `urlopen`,
    `socket.create_connection` and connections of `smtplib`, `ftplib` and `http.client` without one, `urlretrieve`,
    which takes none, and `httpx` with `timeout=None`, low; and `subprocess.run` of git, curl, pip and the like, as
    information. Calls with `**kwargs` and sessions with a mounted adapter are left alone.

    `init_process_group` without `timeout` is information: it has limits of its own, 10 or 30 minutes, and a rank that
    downloads or preprocesses for longer than that ends the run of all. So is `wandb.login` without one, where it may
    have to ask for the key.

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
    words = WORDS + MORE_WORDS
    ruff = ("S113",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every network call without a time limit."""
        for found in (*network_calls(module), *lasting_calls(module)):
            if not found.limited:
                yield self._say(module, found)

    def _say(self, module: Module, found: NetworkCall) -> Finding:
        name, severity = module.segment(found.call.func), _SEVERITY[found.library]
        if found.library == "group":
            impact = "A rank that works alone for longer, as on a download, ends the run of all the others."
            fix = "Give `timeout=datetime.timedelta(...)`: longer than what one rank does alone, and no longer."
            text = f"{name}() sets no time limit: {_GROUP}"
            return self.finding(module, found.call, text, severity=severity, impact=impact, fix=fix)
        if found.library == "login":
            impact = "A job that nobody watches stands still before its first step, where no key is configured."
            text = f"{name}() asks for the key at a terminal where it has none, and waits for it without a time limit"
            return self.finding(module, found.call, text, severity=severity, impact=impact)
        if found.library == "retrieve":
            fix = "Call `socket.setdefaulttimeout` first, or fetch with `urlopen(url, timeout=...)`."
            text = f"{name}() has no time limit, and takes none"
            return self.finding(module, found.call, text, severity=severity, fix=fix)
        return self.finding(module, found.call, f"{name}() has no time limit", severity=severity)
