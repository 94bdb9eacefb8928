"""What is None by the word of another file: a caller that asks elsewhere, a global of a maker, a trainer's logger."""

SAVE = """
def save(model, scheduler, path):
    states = {"model": model.state_dict(), "scheduler": scheduler.state_dict()}
    return states, path
"""

TRAIN = """
from save import save


def train(model, scheduler, loader):
    for batch in loader:
        model(batch).backward()
        if scheduler is not None:
            scheduler.step()
    {before}
    {call}
"""


def none_findings(findings, files):
    return [(f.path, f.line, int(f.severity)) for f in findings(files, select=["NON001"])]


def test_a_caller_that_asks_elsewhere_hands_over_what_may_be_none(findings):
    train = TRAIN.format(before="pass", call='save(model, scheduler, "end.pt")')
    assert none_findings(findings, {"save.py": SAVE, "train.py": train}) == [("save.py", 3, 2)]


def test_a_caller_that_asks_here_too_does_not(findings):
    call = 'if scheduler is not None:\n        save(model, scheduler, "end.pt")'
    assert none_findings(findings, {"save.py": SAVE, "train.py": TRAIN.format(before="pass", call=call)}) == []
    before = "if scheduler is None:\n        return"
    train = TRAIN.format(before=before, call='save(model, scheduler, "end.pt")')
    assert none_findings(findings, {"save.py": SAVE, "train.py": train}) == []


def test_a_function_that_asks_itself_is_right(findings):
    asking = SAVE.replace("scheduler.state_dict()}", "scheduler.state_dict() if scheduler is not None else None}")
    train = TRAIN.format(before="pass", call='save(model, scheduler, "end.pt")')
    assert none_findings(findings, {"save.py": asking, "train.py": train}) == []


def test_a_makers_global_may_not_be_set_yet(findings):
    board = """
    _writer = None


    def open_writer(folder):
        global _writer
        _writer = make(folder)


    def get_writer():
        return _writer
    """
    callback = """
    from board import get_writer


    class BoardCallback:
        def __init__(self):
            self.writer = get_writer()

        def on_end(self, loss):
            self.writer.add_scalar("loss", loss)

        def on_start(self):
            if self.writer is not None:
                self.writer.flush()
    """
    assert none_findings(findings, {"board.py": board, "callback.py": callback}) == [("callback.py", 10, 1)]


def test_a_trainer_may_have_been_given_no_logger(findings):
    text = """
    def test(config, make):
        loggers = []
        for one in config.loggers:
            loggers.append(make(one))
        trainer = make(config.trainer, logger=loggers)
        trainer.logger.log_hyperparams(config)
        if trainer.logger:
            trainer.logger.save()
    """
    guarded = text.replace("        trainer.logger.log_hyperparams(config)\n", "")
    assert none_findings(findings, {"evaluate.py": guarded}) == []
    unguarded = text.replace("        if trainer.logger:\n            trainer.logger.save()\n", "")
    assert none_findings(findings, {"evaluate.py": unguarded}) == [("evaluate.py", 7, 1)]


ENGINE = """
def train(model, loader, args):
    model.train()
    scaler = args.grad_scaler if args.grad_scaler else None
    for batch in loader:
        scaler.scale(model(batch)).backward() if scaler else model(batch).backward()
"""

SCRIPT = """
import argparse
from engine import train


def main():
    parser = argparse.ArgumentParser()
    {declared}
    args = parser.parse_args()
    {given}
    train(make_model(), make_loader(), args)


if __name__ == "__main__":
    main()
"""


def scripts(*, declared="pass", other="pass"):
    one = SCRIPT.format(declared="pass", given="args.grad_scaler = make_scaler()")
    return {"engine.py": ENGINE, "one.py": one, "two.py": SCRIPT.format(declared=declared, given=other)}


def test_a_setting_that_one_script_sets_is_missing_in_the_other(findings):
    assert none_findings(findings, scripts()) == [("engine.py", 4, 1)]


def test_a_setting_that_both_scripts_set_or_that_a_parser_declares_is_there(findings):
    assert none_findings(findings, scripts(other="args.grad_scaler = None")) == []
    assert none_findings(findings, scripts(declared='parser.add_argument("--grad-scaler")')) == []


def test_a_setting_is_left_alone_where_no_other_script_runs_the_function(findings):
    files = scripts()
    files["two.py"] = files["two.py"].replace("train(make_model()", "draw(make_model()")
    assert none_findings(findings, files) == []
