"""What the fixtures of the syncs family cannot show: severities, counts and steps in functions of their own."""

import pytest


def test_every_finding_is_info(findings):
    text = """
    import torch

    def train(model, optimizer, scaler, batches):
        for batch in batches:
            loss = model(batch)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            print(loss, scaler.get_scale(), loss.item())
            torch.cuda.empty_cache()
            if loss > 10:
                break
    """
    found = findings(text, select=["SYN"])
    assert {f.code for f in found} == {"SYN001", "SYN002", "SYN003", "SYN004", "SYN005"}
    assert {str(f.severity) for f in found} == {"info"}


def test_one_loop_gives_one_finding_a_kind(findings):
    text = """
    def train(model, optimizer, batches):
        for batch in batches:
            loss = model(batch)
            loss.backward()
            optimizer.step()
            a = loss.item()
            b = loss.detach().cpu().numpy()
            c = float(loss)
    """
    (found,) = findings(text, select=["SYN001"])
    assert found.line == 7
    assert "2 more such places" in found.message


def test_what_stands_further_down_is_told_again(findings):
    text = """
    def train(model, optimizer, batches):
        for batch in batches:
            loss = model(batch)
            a = loss.item()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            b = loss.item()
    """
    assert [f.line for f in findings(text, select=["SYN001"])] == [5, 9]


def test_the_loop_around_a_step_function_is_hot_too(findings):
    text = """
    def train_step(model, optimizer, batch):
        loss = model(batch)
        loss.backward()
        optimizer.step()
        return loss

    def train(model, optimizer, scaler, batches):
        for batch in batches:
            train_step(model, optimizer, batch)
            print(scaler.get_scale())
    """
    assert [f.line for f in findings(text, select=["SYN003"])] == [11]


def test_a_number_taken_from_a_tensor_is_no_tensor_any_more(findings):
    text = """
    def train(model, optimizer, batches):
        for batch in batches:
            loss = model(batch)
            loss.backward()
            optimizer.step()
            value = loss.item()
            print(value, float(value))
            if value > 3:
                break
    """
    assert [(f.code, f.line) for f in findings(text, select=["SYN"])] == [("SYN001", 7)]


@pytest.mark.parametrize(("name", "found"), [("train_step", [5]), ("_test_layer", []), ("penalty", [])])
def test_a_function_is_a_step_by_its_name_or_by_the_loop_around_its_call(findings, name, found):
    text = f"""
    def {name}(model, batch):
        loss = model(batch)
        loss.backward()
        return loss.item()
    """
    assert [f.line for f in findings(text, select=["SYN001"])] == found
    called = text + f"\n    def run(model, batches):\n        return [{name}(model, b) for b in batches]\n"
    assert [f.line for f in findings(called, select=["SYN001"])] == found
    looped = text + f"\n    def run(model, batches):\n        for b in batches:\n            {name}(model, b)\n"
    assert [f.line for f in findings(looped, select=["SYN001"])] == ([] if name == "_test_layer" else [5])
