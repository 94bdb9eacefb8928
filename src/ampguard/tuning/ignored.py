"""Which searched parameters a Task would ignore: found by asking it, before a single trial is spent on them."""

from ampguard.task import Task
from ampguard.training.config import TrainConfig
from ampguard.training.data.sampled import is_samples
from ampguard.tuning.space import Parameter, ends_of

_SCALING = ("init_scale", "growth_interval")
_PLATEAU = ("plateau_patience", "plateau_factor")


def why_ignored(parameter: Parameter, task: Task, base: TrainConfig, searched: frozenset[str]) -> str:
    """Return why a parameter would change nothing; "" where it would.

    Args:
        parameter: Searched.
        task: With its default options.
        base: How the default configuration is trained.
        searched: Names of everything that is searched.
    """
    name = parameter.name
    if name == "lr" and not _reaches_lr(task, parameter):
        return "its optimizer has the same LR whatever it is given"
    if name == "weight_decay" and task.optimizer is not None:
        return "it brings its own optimizer, and weight_decay is for the default one"
    if name == "batch_size" and not is_samples(task.train_data):
        return "its training data come as ready batches"
    if name == "warmup_steps" and "schedule" not in searched and base.schedule is None and task.schedule is not None:
        return "it brings its own schedule"
    if name in _PLATEAU and "schedule" not in searched and base.schedule != "plateau":
        return f"its schedule is {base.schedule or 'its own'}, not plateau"
    if name in _SCALING and "precision" not in searched and base.precision != "fp16-mixed":
        return f"{base.precision} has no loss scale"
    if name == "early_stop_delta" and "early_stop" not in searched and base.early_stop is None:
        return "early_stop is not given"
    return ""


def _reaches_lr(task: Task, parameter: Parameter) -> bool:
    values = ends_of(parameter)
    low, high = values[0], values[-1]
    if task.optimizer is None or low == high:
        return True
    model = task.model()
    lrs = [
        [float(group.get("lr", 0.0)) for group in task.optimizer(model, float(lr)).param_groups] for lr in (low, high)
    ]
    return lrs[0] != lrs[1]
