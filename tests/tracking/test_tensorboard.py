import resource
import signal
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ampguard.testing import FACTS, ROWS, SKIP, SUMMARY, ReadBack, TrackerContract
from ampguard.tracking.tensorboard import TensorboardTracker


def read(run_dir):
    """Read with TensorBoard's own reader, which merges the files of a folder and heeds purge marks."""
    reader = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    scalars, texts = reader.Tags()["scalars"], {}
    for tag in reader.Tags()["tensors"]:
        texts[tag] = [event.tensor_proto.string_val[0].decode() for event in reader.Tensors(tag)]
    return ReadBack(
        runs=max(1, len(texts.get("run/config", ()))),
        points={tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in scalars},
        facts="".join(texts.get("run/config", ())),
        summary="".join(texts.get("run/summary", ())),
        texts=[text for tag, found in texts.items() if tag.startswith("message/") for text in found],
    )


class TestContract(TrackerContract):
    float_bits = 32
    keeps_tags = False

    def make(self, run_dir):
        return TensorboardTracker(run_dir)

    def read_back(self, run_dir):
        return read(run_dir)


def begun(run_dir, previous=None):
    tracker = TensorboardTracker(run_dir)
    tracker.start(FACTS, previous or {})
    return tracker


def test_a_run_that_goes_back_behind_its_rows_shows_each_step_once(tmp_path):
    """Resumed from a checkpoint at step 10, steps 20 and 30 are taken again: what was there of them goes."""
    first = begun(tmp_path)
    for row in ROWS:
        first.log(row)
    first.event({**SKIP, "step": 25})
    second = begun(tmp_path, {"path": "tensorboard"})
    second.log({"step": 20, "train/loss": 5.0})
    second.log({"step": 30, "train/loss": 6.0})
    sent = read(tmp_path)
    assert [step for step, _ in sent.points["train/loss"]] == [10, 20, 30]
    assert [value for _, value in sent.points["train/loss"]][1:] == [5.0, 6.0]
    assert sent.points["event/skip"] == []


def test_a_part_of_a_row_that_got_through_is_cut_off(tmp_path):
    """A disk that filled up in the middle of a row, which is handed over again when there is space."""
    tracker = begun(tmp_path)
    tracker.log(ROWS[0])
    with tracker._path.open("ab") as file:
        file.write(b"\x40\0\0\0half of a long record" * 1000)
    tracker.log(ROWS[1])
    assert tracker._path.stat().st_size < 2000
    tracker.log(ROWS[2])
    assert [step for step, _ in read(tmp_path).points["train/loss"]] == [10, 20, 30]


def test_a_file_that_a_kill_tore_is_read_up_to_the_tear(tmp_path):
    first = begun(tmp_path)
    first.log(ROWS[0])
    first.log(ROWS[1])
    first._path.write_bytes(first._path.read_bytes()[:-7])
    second = begun(tmp_path, {"path": "tensorboard"})
    assert second.held() == 10
    second.log(ROWS[1])
    second.log(ROWS[2])
    assert [step for step, _ in read(tmp_path).points["train/loss"]] == [10, 20, 30]


def test_a_folder_that_is_gone_is_an_error_and_not_a_void(tmp_path):
    tracker = begun(tmp_path)
    tracker._path.unlink()
    with pytest.raises(FileNotFoundError):
        tracker.log(ROWS[0])


def test_a_full_disk_is_an_error_of_the_row_and_of_no_other(tmp_path):
    """The process may not let a file grow beyond a limit: the system takes a part of the row and refuses the rest."""
    tracker = begun(tmp_path)
    tracker.log(ROWS[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (tracker._path.stat().st_size + 20, hard))
    try:
        for _ in range(2):
            with pytest.raises(OSError, match="only a part"):
                tracker.log(ROWS[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    tracker.log(ROWS[1])
    tracker.log(ROWS[2])
    assert [step for step, _ in read(tmp_path).points["train/loss"]] == [10, 20, 30]


def test_what_was_written_outlives_a_kill(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from ampguard.tracking.tensorboard import TensorboardTracker\n"
        "tracker = TensorboardTracker(Path(sys.argv[1])); tracker.start({}, {}); tracker.log({'step': 1, 'a': 0.5})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    assert read(tmp_path).points["a"] == [(1, 0.5)]


def test_neither_torch_nor_tensorflow_is_imported(tmp_path):
    code = (
        "import sys; from pathlib import Path; from ampguard.tracking.tensorboard import TensorboardTracker\n"
        "tracker = TensorboardTracker(Path(sys.argv[1])); tracker.start({}, {}); tracker.finish({})\n"
        "print({'torch', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_summary_stands_at_the_last_row(tmp_path):
    tracker = begun(tmp_path)
    tracker.log(ROWS[2])
    tracker.finish(SUMMARY)
    (event,) = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Tensors("run/summary")
    assert event.step == 30
