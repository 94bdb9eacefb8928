"""What the fixtures of the trackers family cannot show: severities, counts, helpers in other files, practices."""


def test_the_calls_of_one_loop_are_one_finding_that_counts_them(findings):
    text = """
    import wandb

    def train(model, optimizer, batches):
        for batch in batches:
            loss = model(batch)
            loss.backward()
            optimizer.step()
            wandb.log({"a": 1})
            wandb.log({"b": 2})
            wandb.log({"c": 3})
    """
    (found,) = findings(text, select=["TRK001"])
    assert (found.line, str(found.severity), found.critical_path) == (9, "medium", True)
    assert "2 more such calls" in found.message


def test_tensorboard_is_low_and_once_a_loop(findings):
    loop = """
    def train_{n}(model, optimizer, batches, writer):
        for batch in batches:
            model(batch).backward()
            optimizer.step()
            writer.add_scalar("a", 1)
            if len(batch):
                writer.add_scalar("b", 1)
    """
    found = findings("".join(loop.format(n=n) for n in range(3)), select=["TRK001"])
    assert [str(f.severity) for f in found] == ["low", "low", "low"]


def test_histograms_are_medium_for_gradients_alone(findings):
    text = """
    def train(model, optimizer, batches, writer):
        for batch in batches:
            model(batch).backward()
            optimizer.step()
            for name, weights in model.named_parameters():
                writer.add_histogram(name, {what})
    """
    found = [
        f for what in ("weights", "weights.grad") for f in findings(text.replace("{what}", what), select=["TRK001"])
    ]
    assert [str(f.severity) for f in found] == ["low", "medium"]
    assert all("raises ValueError" in f.message for f in found)


def test_a_loop_that_trains_through_another_file_counts(findings):
    files = {
        "steps.py": """
            def train_step(model, optimizer, batch):
                model(batch).backward()
                optimizer.step()
            """,
        "train.py": """
            import mlflow
            from steps import train_step

            def main(model, optimizer, batches):
                for batch in batches:
                    train_step(model, optimizer, batch)
                    mlflow.log_metric("seen", len(batch))
            """,
    }
    assert [(f.path, f.line) for f in findings(files, select=["TRK001"])] == [("train.py", 8)]


def test_a_project_class_that_isolates_its_tracker_is_trusted(findings):
    files = {
        "board.py": """
            import wandb

            class SafeWriter:
                def log(self, values):
                    try:
                        wandb.log(values)
                    except Exception as error:
                        print("not recorded", error)
            """,
        "train.py": """
            from board import SafeWriter

            def main(model, optimizer, batches):
                writer = SafeWriter()
                for batch in batches:
                    model(batch).backward()
                    optimizer.step()
                    writer.log({"seen": len(batch)})
            """,
    }
    assert findings(files, select=["TRK001"]) == []


def test_a_handler_that_raises_again_protects_nothing(findings):
    text = """
    import wandb

    def train(model, optimizer, batches):
        for batch in batches:
            model(batch).backward()
            optimizer.step()
            try:
                wandb.log({"seen": len(batch)})
            except Exception:
                raise
    """
    assert [f.line for f in findings(text, select=["TRK001"])] == [9]


def test_a_run_started_elsewhere_in_the_file_makes_its_use_low(findings):
    text = """
    import wandb

    def start():
        wandb.init(mode="offline")

    def url():
        return wandb.run.url
    """
    assert [(f.line, str(f.severity)) for f in findings(text, select=["TRK003"])] == [(8, "low")]


def test_a_secret_is_not_printed_whole_and_not_looked_for_in_tests(findings):
    text = 'API_KEY = "q7Zr41nVx0Lw93TgKb58sHdC2mYp6UaE"\n'
    (found,) = findings(text, select=["TRK004"])
    assert str(found.severity) == "high"
    assert "q7Zr41nV" not in found.message
    assert findings({"tests/test_api.py": text}, select=["TRK004"]) == []


def test_asking_for_the_run_is_a_good_practice(practices):
    text = """
    import wandb

    def finish(scores):
        if wandb.run is not None:
            wandb.run.summary.update(scores)
    """
    assert [(p.name, p.line, p.end_line) for p in practices(text)] == [("tracker-run-checked", 5, 6)]


def test_an_evaluation_of_another_file_counts_in_the_training_loop(findings):
    files = {
        "checks.py": """
            import wandb

            def validate(model, checks):
                wandb.log({"error": sum(model(check) for check in checks)})

            def validate_quietly(model, checks):
                try:
                    wandb.log({"error": sum(model(check) for check in checks)})
                except Exception as error:
                    print(error)
            """,
        "train.py": """
            import wandb
            from checks import validate, validate_quietly

            def train(model, optimizer, batches, checks):
                wandb.init(project="plants")
                for batch in batches:
                    model(batch).backward()
                    optimizer.step()
                    validate_quietly(model, checks)
                    validate(model, checks)
                validate(model, checks)
            """,
    }
    (found,) = findings(files, select=["TRK001"])
    assert (found.path, found.line, str(found.severity)) == ("train.py", 11, "medium")


def test_questions_to_a_tracker_send_nothing(findings):
    text = """
    import wandb

    def train(model, optimizer, batches):
        for batch in batches:
            model(batch).backward()
            optimizer.step()
            chart = wandb.plot.line(batch, "a", "b")
            run = wandb.get_run()
        return chart, run
    """
    assert findings(text, select=["TRK001"]) == []


def test_the_board_of_a_lightning_module_is_low(findings):
    text = """
    import lightning.pytorch as pl

    class Net(pl.LightningModule):
        def on_train_epoch_end(self):
            self.logger.experiment.add_scalar("rate", 1)  # tensorboard
    """
    assert [str(f.severity) for f in findings(text, select=["TRK001"])] == ["low"]


def test_what_metrics_are_sent_through_is_low(findings):
    text = """
    import mlflow

    def log_metrics(values, step):
        mlflow.log_metrics(values, step=step)
    """
    (found,) = findings(text, select=["TRK001"])
    assert (found.line, str(found.severity)) == (5, "low")
    assert "leaves `log_metrics()`" in found.message


def test_a_wrapper_whose_loop_stands_in_the_file_is_reported_there_alone(findings):
    text = """
    import wandb

    def log_metrics(values, step):
        wandb.log(values, step=step)

    def train(model, optimizer, batches):
        for step, batch in enumerate(batches):
            model(batch).backward()
            optimizer.step()
            log_metrics({"seen": len(batch)}, step)
    """
    assert [(f.line, str(f.severity)) for f in findings(text, select=["TRK001"])] == [(11, "medium")]


def test_an_accelerator_is_low_also_through_a_function(findings):
    text = """
    def log_norms(accelerator, model, step):
        accelerator.log({"norm": 1.0}, step=step)

    def train(accelerator, model, optimizer, batches):
        accelerator.init_trackers("rivers")
        for step, batch in enumerate(batches):
            accelerator.backward(model(batch))
            optimizer.step()
            log_norms(accelerator, model, step)
    """
    assert [str(f.severity) for f in findings(text, select=["TRK001"])] == ["low"]
