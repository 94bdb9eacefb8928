"""Faults in files of losses, which a training loop of another file computes under autocast."""

import ast
import re
from collections.abc import Iterable, Iterator

from plants.edits import FUNCTIONS, Edit, Page, Plant, Planter, edited

WORDS = ("BCEWithLogitsLoss", "binary_cross_entropy_with_logits")


def planters(texts: Iterable[str]) -> tuple[Planter, ...]:
    """Return the planters for a project's files of losses; `texts` are all its files."""
    trainers = "\n".join(t for t in texts if "autocast(" in t and ".backward(" in t and "scaler" in t)

    def bce_in_a_loss(page: Page) -> Iterator[Plant]:
        """Take the loss of probabilities in a class or function that a trainer under autocast names."""
        calls = [c for name in WORDS for c in page.calls(name)]
        for call in calls:
            owner = _owner(page, call)
            if not owner or not re.search(rf"\b{owner}\b", trainers):
                continue
            edits: list[Edit] = [(call.func, page.source(call.func).replace("_with_logits", "").replace(*_MODULE))]
            if "binary_cross_entropy" in ast.unparse(call.func) and call.args:
                edits.append((call.args[0], f"torch.sigmoid({page.source(call.args[0])})"))
            plain = all(k.arg in ("reduction", "weight") for k in call.keywords)
            text = edited(page, edits) if plain and isinstance(call.func, ast.Attribute) else None
            if text:
                yield Plant("bce-under-autocast", text, (call.lineno, *_uses(page, call)))
                return

    return (bce_in_a_loss,)


_MODULE = ("BCEWithLogitsLoss", "BCELoss")


def _owner(page: Page, call: ast.Call) -> str:
    """Return the outermost class or function around a call, "" for code of the module."""
    above = [at for at in page.above(call) if isinstance(at, (*FUNCTIONS, ast.ClassDef))]
    return above[-1].name if above else ""


def _uses(page: Page, call: ast.Call) -> list[int]:
    """Return the lines where what a call makes is called."""
    statement = page.statement(call)
    place = ast.unparse(statement.targets[0]) if isinstance(statement, ast.Assign) else ""
    return [c.lineno for c in page.calls(place.rpartition(".")[2])] if place else []
