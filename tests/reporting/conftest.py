"""Run folders by hand, and a browser to look at reports of them."""

import functools
import os
import re
import runpy
import shutil
import subprocess
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDERS = runpy.run_path(str(Path(__file__).with_name("run_folders.py")))
BENCHES = runpy.run_path(str(Path(__file__).with_name("bench_folders.py")))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.fixture
def make_run(tmp_path):
    """Makes a run folder: make_run("runs/a", steps=60, events=[...])."""
    return lambda name="run", **how: FOLDERS["make_run"](tmp_path / name, **how)


@pytest.fixture
def made_rows():
    return FOLDERS["made_rows"]


@pytest.fixture
def made_ranges():
    return FOLDERS["made_ranges"]


@pytest.fixture
def make_bench(tmp_path):
    """Makes a bench's folder: make_bench("bench", trials=[...], status="interrupted")."""
    return lambda name="bench", **how: BENCHES["make_bench"](tmp_path / name, **how)


@pytest.fixture
def made():
    """What makes the parts of a bench: made.trial(...), made.parity(...), made.trials(), made.run(...)."""
    names = {"trial": "trial", "parity": "parity", "trials": "made_trials", "run": "make_parity_run"}
    return SimpleNamespace(**{name: BENCHES[there] for name, there in names.items()}, loss=BENCHES["made_loss"])


@pytest.fixture
def hostile():
    return FOLDERS["HOSTILE"]


class Seen:
    """What a browser made of a page."""

    def __init__(self, done):
        self.console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        self.dom = done.stdout

    @property
    def title(self):
        return unescape(re.search(r"<title>(.*?)</title>", self.dom, re.DOTALL)[1])


@pytest.fixture
def browse(tmp_path):
    """Opens a page in a headless browser and returns what it made of it."""
    if CHROMIUM is None:
        pytest.skip("no chromium or chrome on PATH")
    return functools.partial(_browse, tmp_path / "profile")


def _browse(profile, page, *flags):
    # Its child processes write to the same pipes: files do not wait for the last of them.
    out, err = profile.with_name("dom.txt"), profile.with_name("err.txt")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", f"--user-data-dir={profile}", "--enable-logging=stderr", "--dump-dom",
        *flags, page.as_uri(),
    ]  # fmt: skip
    with out.open("w") as stdout, err.open("w") as stderr:
        code = subprocess.run(
            command, stdout=stdout, stderr=stderr, env=os.environ, timeout=120, check=False
        ).returncode
    texts = {"stdout": out.read_text(encoding="utf-8"), "stderr": err.read_text(encoding="utf-8", errors="replace")}
    assert code == 0, texts["stderr"]
    return Seen(subprocess.CompletedProcess(command, code, **texts))
