"""Division by something measured or counted that may be zero."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Edit, Finding, Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.asked_beside import asked_beside
from ampguard.auditing.reading.counters import correlated
from ampguard.auditing.reading.degrees import degree
from ampguard.auditing.reading.filled_lists import filled_list
from ampguard.auditing.reading.gpu_counts import gpu_count
from ampguard.auditing.reading.guards import caught, nonzero, spelling
from ampguard.auditing.reading.intervals import interval
from ampguard.auditing.reading.kinds import steps_in
from ampguard.auditing.reading.masked_shares import masked_share
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.norms import over_norms
from ampguard.auditing.reading.number_types import feeds_math, is_number
from ampguard.auditing.reading.overlaps import overlap, rate
from ampguard.auditing.reading.own_totals import own_total
from ampguard.auditing.reading.parts_of_both import part_of_both
from ampguard.auditing.reading.passes import length_after_loop
from ampguard.auditing.reading.phases import kept_default, phase
from ampguard.auditing.reading.quotients import elapsed, loss_scale, per_item, positives, share
from ampguard.auditing.reading.relations import related
from ampguard.auditing.reading.spreads import spread, text_length
from ampguard.auditing.reading.supports import support
from ampguard.auditing.reading.tree import called, key
from ampguard.auditing.reading.unions import union
from ampguard.auditing.reading.values import zero
from ampguard.auditing.reading.weighted_means import weighted_mean
from ampguard.auditing.reading.zeros import Zero
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.numbers._weights import LOST, WEIGHTS

_DIVIDES = (ast.Div, ast.FloorDiv, ast.Mod)
_OF_ARRAYS = ("spread", "void")
"""Kinds of which `max(x, 1)` would be no more than one element."""

_SURE_NUMBERS = frozenset({"quotient", "ratio", "option", "single", "equal", "empty"})
"""Kinds whose zero is too unusual to speak of where the left side may be a tensor."""


_HITS = regex(
    r"(^|[._])([tf][pn]s?|true_?pos\w*|false_?(pos|neg)\w*|hits?|miss(es)?|precisions?|prec|recalls?|rec)(_|\d|$)",
    re.IGNORECASE,
)


class UnguardedDivision(Rule):
    """A number is divided by something measured or counted that may be zero.

    ## What it does

    Finds divisions and remainders of plain Python numbers whose right side is a difference of clock readings, a
    reading of the allocator, or a count that can stay 0: a counter that grows only for some items, the length of a
    filtered list, `len(loader) // 10`, the first index of a loop. The right side is followed to where it comes
    from: through names, `self.x`, items of dictionaries and functions of the project; a test, `max(x, 1)` or an
    `except` on the way ends the matter. Tensors are left alone: their division gives inf or NaN and raises nothing.
    What becomes NaN there is low: an array over its own total, mean or peak, or over its standard deviation or range;
    a sum over a mask over how many it leaves; a weighted mean; a loss over the number of targets of the batch; a cosine
    over a product of norms; an error relative to a target; the sums of both masks of an overlap; the counts of a
    precision or recall. Low as well are the length of a phase such as a warm-up, which is 0 for a run without it,
    the degrees of a graph's nodes, two areas less what they share, the reciprocal of the root of a norm, a count
    of two objects that are merged, the greater of two counts, the length of a list that other methods fill, as a
    factor, and a number that a test of the same function compares with 0.

    A mean over a loader that may be empty or drops its only batch, a whole-number quotient or a difference of two
    settings, one less than a number of epochs, the words of a text, an option that is 0 by default, the loss scale, the
    time of a pass over what may be empty and the number of GPUs are reported at low or as information.

    ## Why is this bad

    `ZeroDivisionError` comes where the numbers are put together, that is after the work is done: the epoch has run,
    no sample passed the filter, and the mean ends the training before the checkpoint is written. Counts are medium. A
    measured time is practically never zero, and allocator readings are zero only where nothing ran on the device
    (`torch.cuda.max_memory_allocated()` on a CPU): low.

    ## Example

    ```python
    def accuracy(batches, threshold):
        correct, confident = 0, 0
        for scores, label in batches:
            if max(scores) > threshold:
                confident += 1
                correct += scores.index(max(scores)) == label
        return correct / confident
    ```

    ## Use instead

    ```python
    def accuracy(batches, threshold):
        correct, confident = 0, 0
        for scores, label in batches:
            if max(scores) > threshold:
                confident += 1
                correct += scores.index(max(scores)) == label
        return correct / confident if confident else 0.0
    ```

    ## Fix safety

    `max(x, 1)` gives 0 for "nothing of nothing", which may hide that nothing was counted; where that matters return
    NaN or None, or raise an error that says so. Lines are offered as a fix, never applied unasked.

    ## References

    - https://docs.python.org/3/library/exceptions.html#ZeroDivisionError
    - https://docs.python.org/3/library/time.html#time.time (not all systems give better precision than 1 second)
    - https://docs.pytorch.org/docs/stable/generated/torch.cuda.memory.max_memory_allocated.html
    """

    code = "NUM001"
    name = "unguarded-division"
    severity = Severity.MEDIUM
    likelihood = "possible"
    impact = LOST
    risk = "Low: only the case that raises today gives another result."
    fix = "Test the right side first, or divide by `max(x, 1)`."
    words = ("/", "%")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the first division of each scope by each thing that may be zero."""
        seen: set[tuple[ast.AST, str]] = set()
        for node, left, right in _divisions(module):
            if isinstance(right, ast.Constant):
                continue
            found = _zero(module, node, left, right)
            if found is None:
                continue
            same, number = (module.tree.scope(node), spelling(right)), _is_number(module, node, left)
            if same in seen or not _may_raise(module, node, number, found) or _is_safe(module, node, left, found):
                continue
            seen.add(same)
            yield self._reported(module, node, right, found, sure=bool(number))

    def _reported(self, module: Module, node: ast.AST, right: ast.expr, found: Zero, *, sure: bool) -> Finding:
        weight = WEIGHTS[found.kind]
        severity = weight.severity if sure else min(weight.severity, Severity.LOW)
        divisor, least = module.segment(right, 40), "1e-9" if found.kind in ("time", "memory", "waiting") else "1"
        return self.finding(
            module,
            node,
            f"`{module.segment(node)}` divides by `{divisor}`, which {found.why}",
            severity=severity,
            likelihood=weight.likelihood,
            impact=weight.impact,
            fix=(
                f"Divide by `{divisor} + 1e-6`, or by a floor of it."
                if found.kind in _OF_ARRAYS
                else f"Divide by `max({divisor}, {least})`, or say what the result is where `{divisor}` is 0."
            ),
            edit=None if found.kind in _OF_ARRAYS else _edit(module, right, least),
            critical_path=_trains(module, node),
        )


def _zero(module: Module, node: ast.AST, left: ast.expr, right: ast.expr) -> Zero | None:
    """Return why the right side may be zero: by itself, or by what it is to the left side."""
    by_itself = zero(module, right) or length_after_loop(module, node, left, right)
    by_itself = by_itself or spread(module, left, right) or text_length(module, right) or gpu_count(module, right)
    by_both = (
        rate(module, left, right)
        or share(module, left, right)
        or interval(module, left, right)
        or positives(module, left, right)
    )
    by_both = by_both or related(module, left, right) or overlap(module, right)
    by_both = by_both or masked_share(module, left, right) or over_norms(module, left, right)
    by_both = by_both or support(module, right) or degree(module, right) or weighted_mean(module, left, right)
    by_both = by_both or union(module, left, right) or part_of_both(module, left, right)
    by_both = by_both or own_total(module, left, right)
    by_both = by_both or asked_beside(module, right) or filled_list(module, right)
    by_both = by_both or phase(module, right) or kept_default(module, right)
    return by_itself or by_both or elapsed(module, right) or loss_scale(module, right) or per_item(left, right)


def _is_number(module: Module, node: ast.AST, left: ast.expr) -> bool | None:
    """Whether the left side is a plain number; what `math.ceil` and the like are given is none but a number."""
    if isinstance(node, ast.Call) and called(node) == "div":
        return False  # a tensor's
    around = module.tree.parents[node]
    rounded = isinstance(around, ast.Call) and module.names.stands_for(around.func, "math.ceil", "math.floor")
    known = is_number(module, left)
    return True if known is None and (rounded or feeds_math(module, node)) else known


def _may_raise(module: Module, node: ast.AST, number: bool | None, found: Zero) -> bool:
    """Whether the left side is a number, or may be one where the zero is not unusual; `%` of a text formats it."""
    counts = _is_remainder_tested(module, node)
    if found.kind == "quotient" and not (counts or isinstance(getattr(node, "op", None), ast.Div)):
        return False
    if found.kind in (
        "positives",
        "spread",
        "relative",
        "void",
    ):  # a tensor's division gives inf or NaN, as bad in a loss
        return True
    if number is None:
        return counts or (not _is_remainder(node) and (found.kind not in _SURE_NUMBERS or _of_hits(found)))
    return number


def _of_hits(found: Zero) -> bool:
    """Whether a sum of counts is one of hits and misses, by their names: a metric's, NaN of tensors as of numbers."""
    parts = [text for text in found.spellings if " " not in text]
    return found.kind == "ratio" and len(parts) > 1 and all(_HITS.search(text) for text in parts)


def _is_remainder(node: ast.AST) -> bool:
    return isinstance(getattr(node, "op", None), ast.Mod)


def _is_remainder_tested(module: Module, node: ast.AST) -> bool:
    """Whether a remainder is compared with a number (`step % every == 0`): then it is one, and no text is formatted."""
    around = module.tree.parents[node]
    return (
        _is_remainder(node)
        and isinstance(around, ast.Compare)
        and around.left is node
        and isinstance(around.comparators[0], ast.Constant | ast.BinOp)
        and not isinstance(getattr(around.comparators[0], "value", 0), str)
    )


def _divisions(module: Module) -> Iterator[tuple[ast.expr | ast.AugAssign, ast.expr, ast.expr]]:
    for node in module.tree.all(ast.BinOp):
        if isinstance(node.op, _DIVIDES) and not isinstance(node.left, ast.JoinedStr):
            yield node, node.left, node.right
    for node in module.tree.all(ast.AugAssign):
        if isinstance(node.op, _DIVIDES):
            yield node, node.target, node.value
    for call in module.calls_of("div"):
        if isinstance(call.func, ast.Attribute) and len(call.args) == 1 and not call.keywords:
            yield call, call.func.value, call.args[0]
    for call in module.calls_of("divmod"):
        if len(call.args) == 2:
            yield call, call.args[0], call.args[1]


def _is_safe(module: Module, node: ast.AST, left: ast.expr, found: Zero) -> bool:
    """Whether the zero cannot come to this division, or is caught there.

    A left side that is not zero counts too where it counts some of what the right side counts.
    """
    spellings = found.spellings | (frozenset({spelling(left)}) if found.grows else frozenset())
    if nonzero(module, node, spellings) or caught(module, node) or correlated(module, node, found.grows):
        return True
    return bool(found.grows) and _counted_just_before(module, node, left)


def _counted_just_before(module: Module, node: ast.AST, left: ast.expr) -> bool:
    """Whether the left side was counted up by a literal in the same block: then what it is a part of is there too."""
    statement = module.tree.statement(node)
    block = getattr(module.tree.parents[statement], "body", ())
    return any(
        isinstance(s, ast.AugAssign)
        and isinstance(s.op, ast.Add)
        and isinstance(s.value, ast.Constant)
        and key(s.target) == spelling(left)
        and s.lineno < statement.lineno
        for s in block
    )


def _trains(module: Module, node: ast.AST) -> bool:
    function = module.tree.function(node)
    return function is not None and bool(steps_in(module, function))


def _edit(module: Module, right: ast.expr, least: str) -> Edit | None:
    """Return the line with `max(right, least)`, where the right side stands on one line."""
    if right.end_lineno != right.lineno or right.end_col_offset is None:
        return None
    line = module.lines[right.lineno - 1].encode()
    start, end = right.col_offset, right.end_col_offset
    mended = line[:start] + b"max(" + line[start:end] + f", {least})".encode() + line[end:]
    return Edit(first_line=right.lineno, last_line=right.lineno, lines=(mended.decode(),))
