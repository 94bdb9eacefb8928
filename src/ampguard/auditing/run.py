"""`ampguard.audit`: from paths to an AuditReport. Nothing of the audited code is executed."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ampguard import __version__
from ampguard.auditing.across import judged
from ampguard.auditing.analyst import Answer, Places, Tell, answers
from ampguard.auditing.config import AuditConfig
from ampguard.auditing.decision import decided
from ampguard.auditing.discover import STDIN, Found, discover
from ampguard.auditing.findings import Unreadable
from ampguard.auditing.options import load_config
from ampguard.auditing.outcome import AuditReport
from ampguard.auditing.reading.source import Source, UnreadableError, decode
from ampguard.auditing.selection import checked
from ampguard.errors import InputError


def audit(
    paths: str | Path | Iterable[str | Path] = ".",
    *,
    config: AuditConfig | None = None,
    stdin: str | bytes | None = None,
    **options: Any,
) -> AuditReport:
    """Find what is wrong in PyTorch training code, and decide: PASS, WARN or BLOCK.

    The code is read, never imported or run, and torch need not be installed.

    Args:
        paths: Files and folders; "-" stands for the text given as `stdin`.
        config: All options at once; None reads `[tool.ampguard.audit]` of the nearest pyproject.toml.
        stdin: Python source to audit as the path "-"; alone it is all that is audited.
        **options: Single options by the names of AuditConfig's fields, which go before `config` and the file.

    Returns:
        The report. `print(report)` is one line; `report.findings`, `report.criteria` and `report.as_dict()` have all.

    Raises:
        InputError: A path does not exist, or there is no Python file in what was given.
        ConfigError: An option is unknown or cannot be meant.
    """
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    listed = [STDIN] if stdin is not None and listed == ["."] else listed
    given = [str(path) for path in listed]
    if config is None:
        config = load_config(given, options)
    else:
        config = load_config(given, {**vars(config), **options}, file=False)
    return run_audit(given, config, stdin=stdin)


def run_audit(
    paths: list[str], config: AuditConfig, *, stdin: str | bytes | None = None, tell: Tell | None = None
) -> AuditReport:
    """Return the report on these paths under these options.

    Args:
        paths: Files, folders, and "-" for `stdin`.
        config: Every option; no file is looked for.
        stdin: Source that comes as the path "-".
        tell: Told as files are done.

    Raises:
        InputError: A path does not exist, or there is no Python file in what was given.
        ConfigError: An option names no rule.
    """
    config = checked(config)
    found = discover(paths, exclude=config.exclude)
    places: dict[str, Path | Source] = dict(found.files)
    if STDIN in paths:
        _add_stdin(places, found, stdin, config.stdin_filename)
    if not (places or found.unreadable or found.excluded):
        raise InputError(f"there is no Python file in {', '.join(map(repr, paths)) or 'what was given'}.")
    answered = answers(places, config, tell or _untold)
    return _report(answered, found.unreadable, config, places)


def _untold(done: int, of: int) -> None:
    del done, of


def _add_stdin(places: dict[str, Path | Source], found: Found, given: str | bytes | None, name: str) -> None:
    """Take the text of stdin under its name, before a file of that name on disk."""
    if given is None:
        raise InputError("the path '-' stands for the text of stdin, and none was given.", hint="Pass stdin=text.")
    try:
        text = decode(given if isinstance(given, bytes) else given.encode("utf-8", "surrogatepass"))
    except UnreadableError as error:
        places.pop(name, None)
        found.unreadable.append(Unreadable(path=name, reason=str(error)))
    else:
        places[name] = Source(name, text)


def _report(
    answered: Mapping[str, Answer], unreadable: Iterable[Unreadable], config: AuditConfig, places: Places
) -> AuditReport:
    files = tuple(answer.result for answer in answered.values() if answer.result is not None)
    unread = [*unreadable, *(item for answer in answered.values() for item in answer.unreadable)]
    return decided(
        AuditReport(
            version=__version__,
            decision="PASS",
            score=100,
            grade="A+",
            files=judged(sorted(files, key=lambda file: file.facts.path), config),
            unreadable=tuple(sorted(unread, key=lambda item: (item.path, item.reason))),
            config=config,
            texts=places,
        )
    )
