import pytest

from ampguard.auditing.config import AuditConfig
from ampguard.auditing.findings import Severity
from ampguard.auditing.options import load_config
from ampguard.auditing.run import audit
from ampguard.auditing.selection import chosen_rules
from ampguard.errors import ConfigError

BARE = "try:\n    run()\nexcept:\n    x = 1\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return what writes the table of a pyproject.toml into the current folder, with two files beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src" / "gen").mkdir(parents=True)
    for name in ("a.py", "src/b.py", "src/gen/c.py"):
        (tmp_path / name).write_text(BARE)

    def write(table, folder="."):
        (tmp_path / folder / "pyproject.toml").write_text(f"[project]\nname = 'x'\n[tool.ampguard.audit]\n{table}")
        return tmp_path

    return write


def paths_with(code, report):
    return [f.path for f in report.findings if f.code == code]


def test_without_a_file_the_defaults_stand(project):
    assert load_config(["a.py"], {}) == AuditConfig()


def test_every_option_is_read(project):
    project(
        'select = ["ERR", "amp"]\nignore = ["bare-except"]\nexclude = ["*_pb2.py"]\n'
        'critical-operations = ["commit_all"]\n'
        'fail-on = "block"\nworkers = 1\n[tool.ampguard.audit.per-file]\n"*_old.py" = ["ERR002"]\n'
        '[tool.ampguard.audit.severity]\nERR003 = "HIGH"\n'
    )
    assert load_config(["."], {}) == AuditConfig(
        select=("ERR", "AMP"),
        ignore=("ERR001",),
        exclude=("*_pb2.py",),
        critical_operations=("commit_all",),
        fail_on="block",
        workers=1,
        per_file={"*_old.py": ("ERR002",)},
        severity={"ERR003": "high"},
    )


def test_what_is_given_goes_before_the_file_option_by_option(project):
    project('select = ["ERR"]\nfail-on = "block"\n')
    config = load_config(["."], {"select": ("AUD",)})
    assert (config.select, config.fail_on) == (("AUD",), "block")
    assert load_config(["."], {}, file=False) == AuditConfig()


def test_the_nearest_file_with_the_table_counts(project):
    folder = project('fail-on = "block"\n')
    (folder / "src" / "pyproject.toml").write_text("[tool.ruff]\n")
    assert load_config(["src/gen/c.py"], {}).fail_on == "block"
    project('fail-on = "never"\n', "src")
    assert load_config(["src/gen/c.py"], {}).fail_on == "never"
    assert load_config(["a.py", "src"], {}).fail_on == "block"


def test_globs_are_meant_from_the_folder_of_the_file(project, monkeypatch):
    folder = project('exclude = ["src/gen/*.py"]\n[tool.ampguard.audit.per-file]\n"src/*.py" = ["ERR001"]\n')
    assert paths_with("ERR001", audit()) == ["a.py"]
    assert len(audit().files) == 2
    monkeypatch.chdir(folder / "src")
    report = audit()
    assert [file.facts.path for file in report.files] == ["b.py"] and paths_with("ERR001", report) == []


def test_severity_is_changed_by_the_longest_prefix(project):
    project('[tool.ampguard.audit.severity]\nERR = "info"\nERR001 = "critical"\n')
    (first, *_) = [f for f in audit(["a.py"]).findings if f.code == "ERR001"]
    assert first.severity == Severity.CRITICAL
    assert audit(["a.py"], severity={"ALL": "low"}).findings[0].severity == Severity.LOW


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('selct = ["ERR"]', ["pyproject.toml", "'selct'", "Did you mean 'select'", "critical-operations"]),
        ("per_file = 1", ["'per_file'", "Did you mean 'per-file'"]),
        ('stdin-filename = "a.py"', ["'stdin-filename'"]),
        ('select = "ERR"', ["select is 'ERR'", "list"]),
        ("select = [1]", ["select holds 1"]),
        ('select = ["XYZ"]', ["pyproject.toml", "select names no rule: 'XYZ'", "AUD", "--explain list"]),
        ('ignore = ["bare-exept"]', ["ignore", "Did you mean ERR001 (bare-except)?"]),
        ('fail-on = "wran"', ["'wran'", "Did you mean 'warn'", "never"]),
        ("fail-on = 1", ["fail-on 1"]),
        ("workers = -1", ["workers is -1"]),
        ("workers = true", ["workers is True"]),
        ('workers = "two"', ["workers is 'two'"]),
        ('severity = ["low"]', ["severity", "table"]),
        ('severity = {ERR001 = "hihg"}', ["severity of ERR001 is 'hihg'", "Did you mean 'high'", "critical"]),
        ('severity = {ERR999 = "high"}', ["severity names no rule: 'ERR999'"]),
        ('per-file = {"a.py" = ["ERR999"]}', ["per-file names no rule: 'ERR999'"]),
        ('per-file = {"a.py" = 3}', ["per-file is 3"]),
        ("exclude = {a = 1}", ["exclude"]),
    ],
)
def test_a_wrong_option_is_an_error_that_says_what_is_allowed(project, table, words):
    project(table)
    with pytest.raises(ConfigError) as caught:
        load_config(["."], {})
    told = str(caught.value)
    assert [word for word in words if word not in told] == []


def test_a_table_that_is_none_and_a_file_that_is_no_toml(project, tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.ampguard]\naudit = 3\n")
    with pytest.raises(ConfigError, match="it is a table"):
        load_config(["."], {})
    (tmp_path / "pyproject.toml").write_text("[tool\n")
    with pytest.raises(ConfigError, match=r"pyproject.toml is no TOML.*--no-config"):
        load_config(["."], {})
    (tmp_path / "pyproject.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no TOML"):
        load_config(["."], {})
    assert load_config(["."], {}, file=False) == AuditConfig()


def test_python_refuses_what_the_file_refuses(project):
    with pytest.raises(ConfigError, match="Did you mean 'select'"):
        audit(["a.py"], selct=["ERR"])
    with pytest.raises(ConfigError, match="'XYZ'"):
        audit(["a.py"], config=AuditConfig(select=("XYZ",)))
    with pytest.raises(ConfigError, match="list of texts"):
        audit(["a.py"], select=3)
    with pytest.raises(ConfigError, match="stdin-filename"):
        audit(["a.py"], stdin_filename="")


def test_a_config_given_in_python_leaves_the_file_alone(project):
    project('select = ["AUD"]\n')
    assert audit(["a.py"]).findings == ()
    assert audit(["a.py"], config=AuditConfig()).findings != ()
    assert audit(["a.py"], config=AuditConfig(fail_on="never"), select="AUD").findings == ()


def test_select_and_ignore_take_codes_names_prefixes_and_any_case():
    def codes(**options):
        return [rule.code for rule in chosen_rules(load_config(["."], options, file=False))]

    every = codes()
    assert codes(select="ALL") == every
    assert codes(select="err001") == codes(select=("bare-except",)) == ["ERR001"]
    assert codes(select="AUD,ERR001") == ["AUD001", "AUD002", "AUD003", "ERR001"]
    assert codes(select=("AUD",), ignore=("AUD001",)) == ["AUD002", "AUD003"]
    assert codes(ignore="ALL") == []


def test_a_rule_in_preview_is_asked_by_its_code_only(monkeypatch):
    from ampguard.auditing.rules import rule_named

    monkeypatch.setattr(type(rule_named("ERR001")), "preview", True)

    def asked(**options):
        return "ERR001" in [rule.code for rule in chosen_rules(AuditConfig(**options))]

    assert not asked() and not asked(select=("ERR",)) and not asked(select=("ALL",)) and asked(select=("ERR001",))
