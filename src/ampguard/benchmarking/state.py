"""What a bench keeps while it runs, so that Ctrl-C loses nothing and --resume goes on: `bench-state.json`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ampguard.benchmarking.footprint import Footprint
from ampguard.benchmarking.micro_batch import Largest
from ampguard.benchmarking.race import Race
from ampguard.errors import ConfigError, RunFolderError
from ampguard.records import SCHEMA


@dataclass(kw_only=True)
class State:
    """Finished work of a bench in a folder. Parity runs are not here: each has a run folder of its own."""

    path: Path
    settings: Mapping[str, Any]
    """What the work was done for; another value makes it worthless."""
    race: Race = field(default_factory=Race)
    footprints: dict[str, Footprint] = field(default_factory=dict)
    largest: dict[str, Largest] = field(default_factory=dict)
    """Largest micro-batches."""
    parity_steps: int | None = None
    """Steps of the parity runs that exist."""

    def save(self) -> None:
        """Write the state, whole or not at all."""
        values = {
            "schema": SCHEMA,
            "settings": self.settings,
            "race": self.race.as_dict(),
            "footprints": {name: item.as_dict() for name, item in self.footprints.items()},
            "largest": {name: asdict(item) for name, item in self.largest.items()},
            "parity_steps": self.parity_steps,
        }
        part = self.path.with_name(f".{self.path.name}.part")
        part.write_text(json.dumps(values))
        part.replace(self.path)


def open_state(path: Path, settings: Mapping[str, Any], *, resume: bool) -> State:
    """Return the state in `path`, or a new one.

    Raises:
        RunFolderError: The file is damaged.
        ConfigError: It is of a bench with other settings.
    """
    if not (resume and path.exists()):
        return State(path=path, settings=settings)
    try:
        values = json.loads(path.read_text())
        found = State(
            path=path,
            settings=values["settings"],
            race=Race.from_dict(values["race"]),
            footprints={name: Footprint.from_dict(item) for name, item in values["footprints"].items()},
            largest={name: Largest(**item) for name, item in values["largest"].items()},
            parity_steps=values["parity_steps"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path} is damaged: {error}.", hint="Give another --out.") from error
    # As JSON tells them, for what was stored has been through it.
    now = json.loads(json.dumps(settings))
    changed = [name for name in now if found.settings.get(name) != now[name]]
    if changed:
        shown = ", ".join(f"{name} was {found.settings.get(name)!r} and is {now[name]!r}" for name in changed)
        raise ConfigError(
            f"the bench in {path.parent} had other settings: {shown}.", hint="Give the same ones, or another --out."
        )
    return found
