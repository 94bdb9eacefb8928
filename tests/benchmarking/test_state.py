import json

import pytest

from ampguard.benchmarking.footprint import Footprint
from ampguard.benchmarking.micro_batch import Largest
from ampguard.benchmarking.protocol import Timings
from ampguard.benchmarking.race import Race
from ampguard.benchmarking.report import Memory
from ampguard.benchmarking.state import State, open_state
from ampguard.errors import ConfigError, RunFolderError

SETTINGS = {"task": "tiny", "precisions": ("fp32", "bf16-mixed"), "seed": 0}


@pytest.fixture
def saved(tmp_path):
    state = State(
        path=tmp_path / "bench-state.json",
        settings=SETTINGS,
        race=Race(timings=Timings(blocks_s={"fp32": [0.1, 0.2]}), failures={"fp16-mixed": "no"}, capped=["bf16-mixed"]),
        footprints={"fp32": Footprint(peak=None, parts=Memory(weights=1.0), reason="nobody tells")},
        largest={"fp32": Largest(size=8, reason="at least this")},
        parity_steps=20,
    )
    state.save()
    return state


def test_what_was_saved_is_there_again(saved):
    assert open_state(saved.path, SETTINGS, resume=True).race == saved.race
    found = open_state(saved.path, SETTINGS, resume=True)
    assert (found.footprints, found.largest, found.parity_steps) == (saved.footprints, saved.largest, 20)
    assert [file.name for file in saved.path.parent.iterdir()] == ["bench-state.json"]


def test_without_resume_it_starts_anew(saved):
    assert open_state(saved.path, SETTINGS, resume=False).race == Race()


def test_resume_of_nothing_starts_anew(tmp_path):
    assert open_state(tmp_path / "bench-state.json", SETTINGS, resume=True).race == Race()


def test_other_settings_are_refused_naming_each(saved):
    with pytest.raises(ConfigError, match="had other settings: seed was 0 and is 1") as error:
        open_state(saved.path, SETTINGS | {"seed": 1}, resume=True)
    assert "another --out" in error.value.hint


@pytest.mark.parametrize(
    "damage", ["{", "[]", "{}", '{"settings": {}, "race": 3}', '{"settings": {}, "race": {"no": 1}}']
)
def test_a_damaged_state_is_refused(saved, damage):
    saved.path.write_text(damage)
    with pytest.raises(RunFolderError, match="damaged"):
        open_state(saved.path, SETTINGS, resume=True)


def test_it_is_valid_json(saved):
    json.loads(saved.path.read_text(), parse_constant=pytest.fail)
