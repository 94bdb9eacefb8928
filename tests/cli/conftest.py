"""The command line in this process: its exit code and what it wrote."""

import logging

import pytest

from ampguard.cli.main import run


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    """Return what runs a command in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*tokens):
        code = run([str(token) for token in tokens])
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    logger = logging.getLogger("ampguard")
    before = logger.handlers, logger.level, logger.propagate
    yield call
    # A command takes the library's messages to stderr; the tests after it read them where they were.
    logger.handlers, logger.level, logger.propagate = before
