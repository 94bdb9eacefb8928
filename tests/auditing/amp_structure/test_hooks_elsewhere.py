"""Gradients of outputs that a hook of one file hands to an object of another, which keeps them."""

LAYER = """
class Layer:
    def __init__(self):
        self.outputs = []

    def save_grad_outputs(self, grad_output):
        self.outputs.append(grad_output[0].data)
"""

HOOKS = """
class Preconditioner:
    def register(self, layer):
        layer.register_full_backward_hook(self.hook)

    def hook(self, layer, grad_input, grad_output):
        self.layers[layer].save_grad_outputs(grad_output)
"""

ENGINE = "def train(scaler, loss):\n    {loss}.backward()\n"


def test_what_keeps_the_gradient_of_an_output_is_told_where_the_loss_is_scaled(findings):
    files = {"layer.py": LAYER, "hooks.py": HOOKS, "engine.py": ENGINE.format(loss="scaler.scale(loss)")}
    assert [(f.path, f.line) for f in findings(files, select=["AMP002"])] == [("layer.py", 7), ("hooks.py", 7)]


def test_nothing_is_told_where_no_loss_is_scaled(findings):
    files = {"layer.py": LAYER, "hooks.py": HOOKS, "engine.py": ENGINE.format(loss="loss")}
    assert findings(files, select=["AMP002"]) == []
