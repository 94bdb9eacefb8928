"""A request that is tried once."""

import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.errors._network import WORDS, NetworkCall, network_calls

_RETRIES = regex(r"\bretr(y|ies|ying)|backoff|tenacity|HTTPAdapter|max_attempts|num_attempts|max_tries", re.IGNORECASE)


class MissingRetry(Rule):
    """A request over the network is made once, and nothing handles its failure.

    ## What it does
    Names, as information, the first call of `requests`, `urlopen` or `httpx` of each function that stands in no loop
    and in no `try`, in files without any word of retries.

    ## Why is this bad
    Networks fail for seconds. A run that fetches its data or weights at the start dies of a reset connection that a
    second try would have survived.

    ## Example
    ```python
    import requests


    def fetch(url):
        return requests.get(url, timeout=30).content
    ```

    ## Use instead
    ```python
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    session = requests.Session()
    session.mount("https://", HTTPAdapter(max_retries=Retry(total=4, backoff_factor=1)))


    def fetch(url):
        return session.get(url, timeout=30).content
    ```

    ## Fix safety
    Only requests that may be repeated: a `POST` that was received twice may act twice.

    ## References
    - [urllib3 Retry](https://urllib3.readthedocs.io/en/stable/reference/urllib3.util.html#urllib3.util.Retry)
    """

    code = "ERR010"
    name = "missing-retry"
    severity = Severity.INFO
    likelihood = "possible"
    impact = "A connection that is reset once ends the run."
    risk = "Medium: only requests that may be repeated can be retried."
    fix = "Retry a few times with growing pauses, and raise in the end."
    words = WORDS

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the first request of each function that is tried once."""
        found = [n for n in network_calls(module) if n.library in ("requests", "urllib", "httpx")]
        if not found or module.role != "library" or _RETRIES.search(module.text):
            return
        seen = set()
        for request in sorted(found, key=lambda n: n.call.lineno):
            function = module.tree.nearest(request.call, *FUNCTIONS)
            if function not in seen and _once(module, request):
                seen.add(function)
                yield self.finding(module, request.call, f"{module.segment(request.call.func)}() is tried once")


def _once(module: Module, request: NetworkCall) -> bool:
    tree = module.tree
    return next(tree.loops(request.call), None) is None and next(tree.handlers_around(request.call), None) is None
