"""A scaler that is made only where a flag says so, beside an autocast of float16 that is on whatever the flag says.

Where the flag is off, what the autocast computes in float16 goes backward as it is.
"""

import ast
import re

from ampguard.auditing.flow.amp_flags import about_amp
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import Region, flag_words
from ampguard.auditing.reading.tree import key
from ampguard.auditing.rules.amp._precision.always_on import is_plain, no_flag
from ampguard.auditing.rules.amp._steps import callers, tests_above

_DEVICE = regex(r"cuda|gpu|device|scaler", re.IGNORECASE)
_OF_ONE_MODE = regex(r"amp|fp16|half|mixed|autocast", re.IGNORECASE)


def made_by_choice(module: Module, made: ast.Call, regions: list[Region]) -> ast.expr | None:
    """Return the flag of mixed precision under which alone a scaler is made, where no autocast of the file asks it."""
    above = list(tests_above(module, made))
    if len(above) != 1 or not above[0][1] or not no_flag(module, made):
        return None
    flag = above[0][0]
    text = ast.unparse(flag)
    if not is_plain(flag) or key(flag) is None or not about_amp(text) or _DEVICE.search(text):
        return None
    words = flag_words(module, flag)
    return flag if all(is_open(module, region, words) for region in regions) else None


def is_open(module: Module, region: Region, words: frozenset[str]) -> bool:
    """Whether an autocast of this file is on, and no test about mixed precision leads to it, nor a name of a mode."""
    if region.call not in module.tree.parents or region.enabled is not True:
        return False
    function = module.tree.function(region.call)
    around = callers(module, function) if function is not None else []
    tests = [test for at in (region.call, *around) for test, _ in tests_above(module, at)]
    asked = any(about_amp(text := ast.unparse(test)) or words & set(text.split()) for test in tests)
    return not asked and (function is None or not _OF_ONE_MODE.search(function.name))
