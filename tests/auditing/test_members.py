"""A family is its folder: what lies there is a member, and a file holds one."""

import sys

import pytest

from ampguard.auditing.members import members


class Contract:
    pass


@pytest.fixture
def package(tmp_path, monkeypatch):
    def make(**files):
        folder = tmp_path / "family"
        folder.mkdir()
        for name, text in {"__init__": "", **files}.items():
            (folder / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        for name in [n for n in sys.modules if n == "family" or n.startswith("family.")]:
            monkeypatch.delitem(sys.modules, name)
        return "family"

    return make


MEMBER = f"from {__name__} import Contract\nclass {{name}}(Contract): pass\n"


def test_each_file_gives_its_class_in_the_order_of_names(package, monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Contract.__module__])
    made = members(package(b=MEMBER.format(name="B"), a=MEMBER.format(name="A"), _shared="x = 1"), Contract)
    assert [type(member).__name__ for member in made] == ["A", "B"]


def test_a_file_with_two_members_or_none_is_refused(package, monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Contract.__module__])
    with pytest.raises(TypeError, match=r"family\.a holds 0 classes of Contract"):
        members(package(a="x = 1"), Contract)


def test_a_folder_that_is_not_there_has_no_members():
    assert members("ampguard.auditing.rules.nothing", Contract) == []
