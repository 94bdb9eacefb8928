"""Audits of text and of small trees, as tests write them."""

import textwrap
from pathlib import Path

import pytest

from ampguard.auditing.analyse import analyse, chosen_rules
from ampguard.auditing.config import AuditConfig
from ampguard.auditing.reading.project import Project


@pytest.fixture
def findings(tmp_path):
    """Return the findings of a text, or of several files {name: text}; `select` as on the command line."""

    def audit(text, *, select=(), **config):
        files = text if isinstance(text, dict) else {"train.py": text}
        return [f for result in run(tmp_path, files, select=select, **config) for f in result.findings]

    return audit


@pytest.fixture
def practices(tmp_path):
    """Return the good practices of a text, or of several files."""

    def audit(text):
        files = text if isinstance(text, dict) else {"train.py": text}
        return [p for result in run(tmp_path, files) for p in result.practices]

    return audit


def run(folder: Path, files, *, select=(), **config):
    """Write the files, analyse each in one process, and return their results in the order given."""
    paths = {}
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        paths[name] = path
    options = AuditConfig(select=tuple(select), **config)
    project = Project(paths, options)
    return [analyse(project.module(name), chosen_rules(options)) for name in files]
