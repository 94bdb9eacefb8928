"""Files whose encoding cookie belongs to a package that brought newer syntax to older Pythons."""

import pytest

from ampguard.auditing.reading.source import UnreadableError, decode


@pytest.mark.parametrize(
    "cookie", [b"# -*- coding: future_fstrings -*-", b"#!/usr/bin/python\n# coding=future-annotations"]
)
def test_a_cookie_of_backported_syntax_stands_for_utf8(cookie):
    assert decode(cookie + b"\ns = f'\xc3\xa9{1}'\n").endswith("s = f'\u00e9{1}'\n")


def test_any_other_unknown_cookie_is_still_refused():
    with pytest.raises(UnreadableError, match="unknown encoding"):
        decode(b"# coding: future_numbers\n")
