"""Which error scenarios a file's tests exercise, and which ones its code has: both as facts, for the coverage table.

A test exercises a scenario when it does what the scenario is (it replaces `torch.cuda.is_available` by something
false, hands over `scaler=None`, makes `wandb.log` raise, ...), or when its name says so and it checks something. A
test that only runs beside a scenario does not count. What a fixture or a helper does for a test is not seen, so that
"untested" means: no test was found that says or shows it.
"""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading import scenario_acts as acts
from ampguard.auditing.reading import scenario_places as places
from ampguard.auditing.reading.kinds import AMP_WORDS, TRACKERS
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.scenario_acts import Acts
from ampguard.auditing.reading.scenario_tests import Case, cases

_ABOUT = ("torch", "cuda", "caler", "precision", "heckpoint", "ckpt", "riter", "wandb", "mlflow", "racker", "elapsed")
"""A file that holds none of these has nothing to do with training."""

TESTS = "tests"
"""Name of the fact that a file has tests."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One thing that goes wrong, or is not there, in training.

    Attributes:
        key: In kebab-case; part of the facts' names.
        title: As the coverage table prints it.
        words: A file is looked at only where its text holds one of these.
        names: What a test's name says when the test is about it.
        acts: Walks what a test does that is the scenario.
        there: Walks where code has the scenario.
    """

    key: str
    title: str
    words: tuple[str, ...]
    names: re.Pattern[str]
    acts: Callable[[Module, Case], Acts]
    there: Callable[[Module], Iterable[tuple[ast.AST, str]]]


def exercised(module: Module, scenario: Scenario) -> list[tuple[Case, str]]:
    """Return the tests of a file that exercise a scenario, each with how that is known; in source order."""
    if not module.mentions(scenario.words):
        return []
    found: list[tuple[Case, str]] = module.once(
        ("scenario exercised", scenario.key),
        lambda: [(test, how) for test in cases(module) if (how := _how(module, test, scenario))],
    )
    return found


def scenario_facts(module: Module) -> list[tuple[str, str]]:
    """Return what one file adds to the coverage table, as (name, "LINE text").

    Names: "tests" (the first test, for a file that has tests), "scenario tested: KEY", "scenario there: KEY",
    "precision names tested", "precision names there" (one fact a name).
    """
    if not module.mentions(_ABOUT):
        return [(name, f"{line} {text}") for name, line, text in _tests(module)]
    facts = [*_tests(module), *_tested(module), *(() if module.role == "test" else _there(module))]
    return [(name, f"{line} {text}") for name, line, text in facts]


def _tests(module: Module) -> Iterator[tuple[str, int, str]]:
    tests = cases(module)
    if tests:
        yield TESTS, tests[0].function.lineno, f"{len(tests)} tests"


def _tested(module: Module) -> Iterator[tuple[str, int, str]]:
    if not cases(module):
        return
    for scenario in SCENARIOS:
        for test, how in exercised(module, scenario):
            yield f"scenario tested: {scenario.key}", test.function.lineno, f"{test.function.name}: {how}"
    for name, line in _precisions(module).items():
        yield "precision names tested", line, name


def _there(module: Module) -> Iterator[tuple[str, int, str]]:
    for scenario in SCENARIOS:
        if module.mentions(scenario.words):
            found = [(getattr(node, "lineno", 1), text) for node, text in scenario.there(module)]
            for line, text in sorted(found):
                yield f"scenario there: {scenario.key}", line, text
    for name, line in _precisions(module).items():
        yield "precision names there", line, name


def _precisions(module: Module) -> dict[str, int]:
    found: dict[str, int] = {}
    for node, name in places.precision_names(module):
        found.setdefault(name, node.lineno)
    return found


def _how(module: Module, test: Case, scenario: Scenario) -> str | None:
    act = next(scenario.acts(module, test), None)
    if act is not None:
        return act[1]
    return "its name says so, and it checks the outcome" if test.checks and scenario.names.search(test.name) else None


SCENARIOS = (
    Scenario(
        key="cpu-fallback",
        title="No GPU: fallback to the CPU",
        words=("cuda", "cpu"),
        names=regex(
            r"cpu_fallback|fall(s|ing)?_?back_to_(the_)?(cpu|fp32|float32)|(without|no)_(a_|any_)?(gpus?|cuda)(_available)?$"
            r"|cuda_(is_)?(un|not_)available|runs_without_(a_)?(gpu|cuda)"
        ),
        acts=acts.without_gpu,
        there=places.gpu_checked,
    ),
    Scenario(
        key="scaler-none",
        title="Scaler is None",
        words=("caler",),
        names=regex(r"scaler_(is_)?none|none_scaler|(without|no)_(a_)?(grad_?)?scaler"),
        acts=acts.without_scaler,
        there=places.scaler_may_be_none,
    ),
    Scenario(
        key="extreme-scales",
        title="Extreme loss scales",
        words=("caler", "loss_scale", "init_scale"),
        names=regex(
            r"(extreme|huge|tiny|zero|collapsed?|infinite)_(\w+_)?(loss_|grad_)?scales?(_|$)"
            r"|(^|_)scale_(\w+_)?(extreme\w*|overflow(s|ed)?|collapse[sd]?|underflow(s|ed)?|is_zero|floor)(_|$)"
        ),
        acts=acts.extreme_scale,
        there=places.scale_read,
    ),
    Scenario(
        key="tracker-run-none",
        title="Tracker without an active run",
        words=TRACKERS,
        names=regex(r"run_(is_)?none|(without|no)_(an?_)?active_(wandb_|mlflow_)?run"),
        acts=acts.run_none,
        there=places.tracker_run_read,
    ),
    Scenario(
        key="tracker-failing",
        title="Tracker that fails",
        words=(*TRACKERS, "racker", "riter"),
        names=regex(
            r"(wandb|mlflow|tracker|tensorboard|neptune|comet)_(\w+_)?(fail|crash|unavailable|outage|down(_|$)|hang)"
            r"|(failing|broken|crashing|dead|hanging|flaky)_(\w+_)?(wandb|mlflow|tracker|tensorboard)"
        ),
        acts=acts.tracker_fails,
        there=places.tracker_called,
    ),
    Scenario(
        key="zero-denominator",
        title="Denominators of zero",
        words=("ero", "mpty", "time", "memory", "elapsed", "duration", "denominator", "seconds"),
        names=regex(
            r"zero_division|divi(sion|de)_by_zero|zero_(time|elapsed|seconds|memory|denominator)(_|$)"
            r"|empty_(data_?loader|loader|data_?set|epoch)(_|$)"
        ),
        acts=acts.zero_measured,
        there=places.guarded_division,
    ),
    Scenario(
        key="scaler-construction",
        title="Scaler whose construction fails",
        words=("GradScaler", "scaler"),
        names=regex(r"scaler_(\w+_)?(init|constr|creat)\w*_(\w+_)?(fail|error|rais|crash)"),
        acts=acts.construction_fails,
        there=places.scalers_made,
    ),
    Scenario(
        key="precision-names",
        title="Every precision name",
        words=("precision", "dtype"),
        names=regex(r"(every|each|all)_precisions?(_|$)"),
        acts=acts.nothing,
        there=lambda module: ((node, repr(name)) for node, name in places.precision_names(module)),
    ),
    Scenario(
        key="non-finite",
        title="Non-finite gradients or loss",
        words=(*AMP_WORDS, "nan", "inf"),
        names=regex(
            r"(grad|loss|scale|scaler|step|train|amp_|fp16|skip|detect|guard|stop)\w*(?<!no)(?<!without)_(nans?|infs?|non_?finite)(_|$)"
            r"|(?<!no)(?<!without)(^|_)(nans?|infs?|non_?finite)_(\w+_)?(grad|loss|scale|step|train|skip|detect|guard|stop)"
            r"|found_inf|(grad|loss|scaler?|fp16|amp)_(\w+_)?overflow(s|ed)?(_|$)"
            r"|(^|_)overflow(s|ed|ing)?_(\w+_)?(grad|step|scale|loss)"
        ),
        acts=acts.non_finite,
        there=places.scaled_or_checked,
    ),
    Scenario(
        key="checkpoint-damaged",
        title="Checkpoint damaged or missing",
        words=("heckpoint", "ckpt", "torch.load", "load_file"),
        names=regex(
            r"(checkpoint|ckpt)_(is_|file_|path_|dir_)?(corrupt\w*|damaged|truncated|broken|invalid|absent|nonexistent|not_found"
            r"|incomplete|missing)(_(is|raises|returns|starts|falls|fails|file|stops)|$)"
            r"|(?<!not)(^|_)(corrupt(ed)?|damaged|truncated|broken|missing|invalid|absent|nonexistent|incomplete)_"
            r"(a_|the_|model_|training_|latest_)?(checkpoint|ckpt)s?(_|$)"
        ),
        acts=acts.damaged,
        there=places.checkpoint_loaded,
    ),
    Scenario(
        key="resume",
        title="Resuming from a checkpoint",
        words=("heckpoint", "ckpt", "resum", "state_dict", "torch.load"),
        names=regex(
            r"(^|_)resum(e|es|ed|ing)(_|$)|(^|_)restor\w*_(from_)?(the_)?(checkpoint|ckpt|optimizer|trainer|run)(_|$)"
            r"|checkpoint_(\w+_)?round_?trip"
        ),
        acts=acts.resumes,
        there=places.checkpoint_loaded,
    ),
)
"""In the order of the coverage table."""


def scenario(key_: str) -> Scenario:
    """Return the scenario of that key."""
    return next(s for s in SCENARIOS if s.key == key_)
