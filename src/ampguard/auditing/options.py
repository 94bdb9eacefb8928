"""`[tool.ampguard.audit]` of a pyproject.toml: the options of `AuditConfig` in TOML's spelling.

The file is the nearest one above the first path that holds the table. What a caller gives goes before it, option by
option. Globs in it are meant from its own folder, wherever the audit is started.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ampguard.auditing.config import AuditConfig, option_names
from ampguard.auditing.globs import under
from ampguard.auditing.selection import checked
from ampguard.errors import ConfigError, did_you_mean

TABLE = "[tool.ampguard.audit]"


def load_config(paths: Sequence[str], given: Mapping[str, Any], *, file: bool = True) -> AuditConfig:
    """Return the options for an audit of these paths.

    Args:
        paths: What is audited; the first decides where the file is looked for.
        given: Options that the caller gives, as `AuditConfig` names them.
        file: Whether a pyproject.toml is looked for.

    Raises:
        ConfigError: An option is unknown or cannot be meant, in the file or as given.
    """
    found = _find(_start(paths, given)) if file else None
    config = AuditConfig()
    if found is not None:
        config = _from_table(*found)
    return checked(replace(config, **_known(given)))


def _known(given: Mapping[str, Any]) -> Mapping[str, Any]:
    names = option_names()
    for name in given:
        if name not in names:
            raise ConfigError(f"there is no option {name!r}.", allowed=names, hint=did_you_mean(name, names))
    return given


def _start(paths: Sequence[str], given: Mapping[str, Any]) -> Path:
    """Return the folder from which the file is looked for, upward."""
    first = next((path for path in paths if path != "-"), str(given.get("stdin_filename", ".")))
    place = Path(first).absolute()
    return place if place.is_dir() else place.parent


def _find(folder: Path) -> tuple[Path, Mapping[str, Any]] | None:
    for above in (folder, *folder.parents):
        file = above / "pyproject.toml"
        table = _table(file) if file.is_file() else None
        if table is not None:
            return file, table
    return None


def _table(file: Path) -> Mapping[str, Any] | None:
    """Return the table of one file, None where it has none."""
    import tomllib  # not loaded where no file is asked

    hint = "--no-config leaves the file alone."
    try:
        value: Any = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{_shown(file)} cannot be read: {error.strerror}.", hint=hint) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{_shown(file)} is no TOML: {error}.", hint=hint) from error
    for key in ("tool", "ampguard", "audit"):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    if not isinstance(value, Mapping):
        raise ConfigError(f"{_shown(file)}: tool.ampguard.audit is {value!r}; it is a table.")
    return value


def _from_table(file: Path, table: Mapping[str, Any]) -> AuditConfig:
    """Return the options that the table gives; every complaint names the file."""
    try:
        config = checked(AuditConfig(**dict(_options(table))))
    except ConfigError as error:
        message = f"{_shown(file)}, {TABLE}: {error.message}"
        raise ConfigError(message, allowed=error.allowed, hint=error.hint) from error
    folder = file.parent.as_posix()
    return replace(
        config,
        exclude=tuple(under(folder, glob) for glob in config.exclude),
        per_file={under(folder, glob): codes for glob, codes in config.per_file.items()},
    )


def _options(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    known = [name.replace("_", "-") for name in option_names() if name != "stdin_filename"]
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"there is no option {key!r}.", allowed=known, hint=did_you_mean(key, known))
        name = key.replace("-", "_")
        if name not in ("per_file", "severity", "workers", "fail_on") and not isinstance(value, list):
            raise ConfigError(f'{key} is {value!r}; it is a list of texts, as in {key} = ["..."].')
        yield name, value


def _shown(file: Path) -> str:
    here = Path.cwd()
    return str(file.relative_to(here)) if file.is_relative_to(here) else str(file)
