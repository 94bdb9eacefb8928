import os

import pytest

from ampguard.auditing.discover import SKIPPED, discover
from ampguard.auditing.globs import matches, under
from ampguard.errors import InputError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return what makes files in an empty current folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def make(*names):
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x = 1\n")
        return folder

    return make


def names(*paths, **options):
    return list(discover(paths, **options).files)


def test_a_folder_gives_its_python_files_in_order_with_slashes(here):
    here("b.py", "a/z.py", "a/b/c.py", "a/readme.md", "a/data.pyi", "a.py")
    assert names(".") == ["a.py", "a/b/c.py", "a/z.py", "b.py"]


def test_a_given_file_is_taken_whatever_its_suffix(here):
    here("train", "tool.pyw")
    assert names("train", "tool.pyw") == ["tool.pyw", "train"]


def test_names_do_not_depend_on_how_a_path_is_written(here):
    folder = here("pkg/a.py")
    for path in ("pkg", "./pkg/", "pkg/../pkg", folder / "pkg", str(folder), "pkg/a.py", "./pkg//a.py"):
        assert names(path) == ["pkg/a.py"]


def test_a_file_outside_the_current_folder_has_an_absolute_name(here, tmp_path):
    here()
    outside = tmp_path / "other.py"
    outside.write_text("")
    assert names("../other.py") == [outside.as_posix()]


def test_a_file_reached_twice_is_taken_once_by_its_own_name(here):
    folder = here("pkg/a.py")
    (folder / "link.py").symlink_to("pkg/a.py")
    (folder / "also").symlink_to("pkg", target_is_directory=True)
    assert names(".", "pkg", "pkg/a.py", "link.py") == ["pkg/a.py"]
    assert names("link.py") == ["link.py"]
    assert names("also") == ["also/a.py"]


def test_folders_that_nobody_audits_are_left_out_unless_given(here):
    folder = here("a.py", "lib/python3.11/site-packages/torch/x.py", *(f"{name}/x.py" for name in sorted(SKIPPED)))
    assert names(".") == ["a.py"]
    assert names(".venv") == [".venv/x.py"]
    assert names("lib/python3.11/site-packages/torch") == ["lib/python3.11/site-packages/torch/x.py"]
    assert folder


def test_an_environment_is_known_by_its_mark_not_by_its_name(here):
    folder = here("env/agent.py", "mine/lib/site-packages/p/x.py", "mine/bin/y.py", "conda/z.py")
    (folder / "mine" / "pyvenv.cfg").write_text("")
    (folder / "conda" / "conda-meta").mkdir()
    assert names(".") == ["env/agent.py"]
    assert names("mine") == ["mine/bin/y.py", "mine/lib/site-packages/p/x.py"]


def test_a_build_folder_is_left_out_unless_it_is_a_package(here):
    here("build/lib/pkg/a.py", "dist/a.py", "pkg/build/__init__.py", "pkg/build/a.py")
    assert names(".") == ["pkg/build/__init__.py", "pkg/build/a.py"]


@pytest.mark.parametrize(
    ("glob", "left"),
    [
        ("a.py", ["b_pb2.py", "pkg/b.py", "tests/deep/x.py"]),
        ("*_pb2.py", ["a.py", "pkg/a.py", "pkg/b.py", "tests/deep/x.py"]),
        ("pkg", ["a.py", "b_pb2.py", "tests/deep/x.py"]),
        ("pkg/", ["a.py", "b_pb2.py", "tests/deep/x.py"]),
        ("pkg/a.py", ["a.py", "b_pb2.py", "pkg/b.py", "tests/deep/x.py"]),
        ("./pkg/*.py", ["a.py", "b_pb2.py", "tests/deep/x.py"]),
        ("*/x.py", ["a.py", "b_pb2.py", "pkg/a.py", "pkg/b.py", "tests/deep/x.py"]),
        ("**/x.py", ["a.py", "b_pb2.py", "pkg/a.py", "pkg/b.py"]),
        ("tests/**", ["a.py", "b_pb2.py", "pkg/a.py", "pkg/b.py"]),
        ("deep", ["a.py", "b_pb2.py", "pkg/a.py", "pkg/b.py"]),
        ("[ab].py", ["b_pb2.py", "tests/deep/x.py"]),
        ("[!a].py", ["a.py", "b_pb2.py", "pkg/a.py"]),
        ("?.py", ["b_pb2.py"]),
    ],
)
def test_exclude_leaves_out_what_a_glob_fits(here, glob, left):
    here("a.py", "b_pb2.py", "pkg/a.py", "pkg/b.py", "tests/deep/x.py")
    assert names(".", exclude=[glob]) == left


def test_exclude_holds_for_given_files_and_says_so(here):
    here("a.py")
    found = discover(["a.py"], exclude=["a.py"])
    assert found.files == {} and found.excluded


def test_a_glob_meant_from_another_folder(here):
    folder = here("src/gen/a.py", "gen/a.py")
    assert matches("src/gen/a.py", [under(str(folder / "src"), "gen/*.py")])
    assert not matches("gen/a.py", [under(str(folder / "src"), "gen/*.py")])
    assert under("/any", "*_pb2.py") == "*_pb2.py"


def test_a_missing_path_is_an_error_that_names_a_close_one(here):
    here("training.py", "pkg/loop.py")
    with pytest.raises(InputError, match=r"Did you mean 'training\.py'"):
        discover(["trainin.py"])
    with pytest.raises(InputError, match="Did you mean 'pkg'"):
        discover(["pkgs/"])
    with pytest.raises(InputError, match="There is no folder 'nowhere'"):
        discover(["nowhere/deep/loop.py"])


def test_links_that_lead_nowhere(here):
    folder = here("a.py")
    (folder / "gone.py").symlink_to("nowhere.py")
    (folder / "ring.py").symlink_to("ring2.py")
    (folder / "ring2.py").symlink_to("ring.py")
    (folder / ".#a.py").symlink_to("editor@host.1234")
    found = discover(["."])
    assert list(found.files) == ["a.py"]
    assert [item.path for item in found.unreadable] == ["gone.py", "ring.py", "ring2.py"]
    assert "'nowhere.py', which does not exist" in found.unreadable[0].reason
    assert "symbolic links" in found.unreadable[1].reason
    with pytest.raises(InputError, match="link"):
        discover(["gone.py"])


def test_a_link_to_a_folder_above_is_a_loop_and_is_listed(here):
    folder = here("pkg/a.py", "other/b.py")
    (folder / "pkg" / "up").symlink_to("..", target_is_directory=True)
    (folder / "pkg" / "self").symlink_to(".", target_is_directory=True)
    (folder / "pkg" / "beside").symlink_to("../other", target_is_directory=True)
    found = discover(["."])
    assert list(found.files) == ["other/b.py", "pkg/a.py"]
    assert [item.path for item in found.unreadable] == ["pkg/self", "pkg/up"]
    assert all("loop" in item.reason for item in found.unreadable)


def test_what_is_named_like_source_and_is_none(here):
    folder = here("a.py", "folder.py/inside.py")
    os.mkfifo(folder / "pipe.py")
    found = discover(["."])
    assert list(found.files) == ["a.py", "folder.py/inside.py"]
    assert [(item.path, item.reason) for item in found.unreadable] == [("pipe.py", "is not a regular file")]


def test_a_folder_that_may_not_be_read_is_listed(here, monkeypatch):
    here("a.py", "secret/b.py")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = discover(["."])
    assert list(found.files) == ["a.py"]
    assert [(item.path, item.reason) for item in found.unreadable] == [("secret", "permission denied")]


def test_names_that_are_no_text_are_made_so(here):
    folder = here("a.py")
    (folder / os.fsdecode(b"na\xffme.py")).write_text("x = 1\n")
    assert names(".") == ["a.py", "na\\xffme.py"]
