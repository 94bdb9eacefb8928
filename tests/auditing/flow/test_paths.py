"""Which orders of events a walk sees: branches, loops, jumps, handlers, helpers; and that it stays small."""

import ast

import pytest

from ampguard.auditing.config import AuditConfig
from ampguard.auditing.flow import paths
from ampguard.auditing.flow.lowering import group, lower
from ampguard.auditing.flow.paths import Machine, Walk
from ampguard.auditing.flow.skeleton import Event, Vocabulary
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.project import Project
from ampguard.auditing.reading.source import Source


class Letters(Vocabulary):
    """Calls of a(), b() and c() are events."""

    def nodes(self, module):
        calls = module.tree.all(ast.Call)
        return group(module, [c for c in calls if isinstance(c.func, ast.Name) and c.func.id in "abc"])

    def event(self, node, module, naming):
        return Event(node.func.id, node, module)

    def helper(self, module, call):
        return target(module, call)


class Words(Machine[str]):
    """Remembers the letters in order, six at most."""

    def start(self):
        return ""

    def apply(self, event, state, facts):
        return [((state + event.kind)[:6], facts)]


class Sure(Words):
    """Takes every loop at least once, and does not remember c."""

    def apply(self, event, state, facts):
        return [(state, facts)] if event.kind == "c" else super().apply(event, state, facts)

    def skippable(self, loop):
        return False


def words(text, machine=Words):
    """Return the words that paths through the function `f` of a text spell."""
    module = Project({"m.py": Source("m.py", text)}, AuditConfig()).module("m.py")
    (function,) = (f for f in module.functions if f.name == "f")
    return {state for state, _ in Walk(machine(), lower(module, function, Letters())).run()}


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ("a(); b()", {"ab"}),
        ("if x: a()\n else: b()\n c()", {"ac", "bc"}),
        ("if x: a()\n if x: b()", {"ab", ""}),
        ("if x: a()\n x = y\n if x: b()", {"ab", "a", "b", ""}),
        ("if x: a()\n if not x: b()", {"a", "b"}),
        ("if x is None: return\n if x is not None: a()", {"", "a"}),
        ("x and a()\n b()", {"ab", "b"}),
        ("x or a()\n b()", {"ab", "b"}),
        ("y = a() if x else b()\n c()", {"ac", "bc"}),
        ("assert x\n if x: a()\n else: b()", {"a"}),
        ("raise E\n a()", set()),
        ("while True:\n  a()\n  if ready(): break\n b()", {"ab", "aab", "aaab"}),
        (
            "for i in y:\n  a()\n  if i: continue\n  b()",
            {"", "a", "ab", "aa", "aab", "aba", "abab", "aaa", "aaab", "abaa", "aaba", "aaaa"},
        ),
        ("with w() as g: a()\n b()", {"ab"}),
        ("try: a()\n finally: b()\n c()", {"abc"}),
        ("for i in y:\n  pass\n else: b()", {"b"}),
        ("match x:\n  case 'p': a()\n  case _: b()\n if x == 'p': c()", {"ac", "b"}),
        ("if (x := g()) is not None: a()\n if x is None: b()", {"a", "b"}),
        ("u = True if x else False\n if u: a()\n if x: b()", {"ab", ""}),
        ("u = None\n if x: u = Thing()\n if u is not None: a()\n if x: b()", {"ab", ""}),
        ("u = x\n if u: a()\n if x: b()", {"ab", ""}),
    ],
)
def test_orders_that_a_walk_sees(body, seen):
    found = words("def f(x, y):\n " + body)
    assert {w for w in found if len(w) <= 4} == seen


def test_a_handler_begins_anywhere_in_its_body():
    assert words("def f():\n try:\n  a()\n  b()\n except E:\n  c()") == {"ab", "c", "ac", "abc"}


def test_a_suppressed_body_may_stop_anywhere():
    assert words("def f():\n with suppress(E):\n  a()\n  b()\n c()") >= {"abc", "ac", "c"}


def test_a_helper_is_seen_through_with_the_callers_names():
    text = "def f(x):\n if x: a()\n h(x)\n\ndef h(flag):\n if flag: b()\n return\n c()"
    assert words(text) == {"ab", ""}


def test_a_recursive_helper_ends():
    assert words("def f(x):\n a()\n if x: f(x)") == {"a"}


class Counted(Words):
    """Remembers every letter, so that no two paths are in one state, and counts how many states events meet."""

    applied = 0

    def apply(self, event, state, facts):
        self.applied += 1
        return [(state + event.kind, facts)]


def test_many_branches_stay_few_states():
    branches = 14
    body = "\n".join(f" if x{i}: a()\n else: b()" for i in range(branches))
    module = Project({"m.py": Source("m.py", f"def f():\n{body}")}, AuditConfig()).module("m.py")
    machine = Counted()
    Walk(machine, lower(module, module.functions[0], Letters())).run()
    assert machine.applied <= branches * 2 * paths._STATES < 2**branches


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ("for i in y:\n  c()\n a()", {"a"}),
        ("for i in y:\n  a()\n b()", {"ab", "aab", "aaab"}),
        ("for i in y:\n  for j in i:\n   c()\n  a()\n b()", {"ab", "aab", "aaab"}),
        ("for i in y:\n  if i != x: continue\n  a()\n b()", {"ab", "aab", "aaab"}),
        ("for i in y:\n  if x: continue\n  a()\n b()", {"b", "ab", "aab", "aaab"}),
    ],
)
def test_what_stands_behind_a_loop_that_changes_nothing_is_reached(body, seen):
    found = words("def f(x, y):\n " + body, Sure)
    assert {w for w in found if len(w) <= 4} == seen


class Last(Words):
    """Has one state, and counts with how much knowledge paths come to c."""

    def __init__(self):
        self.met = set()

    def apply(self, event, state, facts):
        if event.kind == "c":
            self.met.add(facts)
        return [(state, facts)]


@pytest.mark.parametrize(
    ("body", "ways"),
    [
        ("if x: a()\n if x: b()\n c()", 1),
        ("if x: a()\n c()\n if x: b()", 2),
        ("u = 1 if x else len(y)\n assert z == u\n c()\n if x: a()", 1),
        ("u = x.a and not x.b\n assert len(y) == u\n c()", 1),
        ("if x: a()\n u = x\n c()\n if u: a()", 2),
        ("u = y > 1\n for i in y:\n  c()\n  if u: return", 2),
        ("for i in y:\n  if x: a()\n  c()\n  if x: b()", 2),
    ],
)
def test_paths_differ_in_what_is_asked_later_and_in_nothing_else(body, ways):
    module = Project({"m.py": Source("m.py", "def f(x, y):\n " + body)}, AuditConfig()).module("m.py")
    machine = Last()
    Walk(machine, lower(module, module.functions[0], Letters())).run()
    assert len(machine.met) == ways
