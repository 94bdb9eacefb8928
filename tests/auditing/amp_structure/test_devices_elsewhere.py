"""A device that another file chooses, and a wrapping for GPUs of what was moved to it."""

import pytest

TRAINING = """
    # with cuda, or without
    from parts import DEVICE
    from torch.nn.parallel import DistributedDataParallel


    def train(network, batches, optimizer, rank):
        network = network.to(DEVICE)
        network = DistributedDataParallel(network, device_ids=[rank])
        for batch in batches:
            network(batch).mean().backward()
            optimizer.step()
"""


@pytest.mark.parametrize(
    ("device", "found"),
    [
        ('torch.device("cuda" if torch.cuda.is_available() else "cpu")', [9]),
        ('torch.device("cuda")', []),
    ],
)
def test_a_device_of_another_file_may_be_the_cpu(findings, device, found):
    files = {"parts.py": f"import torch\n\nDEVICE = {device}\n", "training.py": TRAINING}
    assert [f.line for f in findings(files, select=["AMP030"]) if f.path == "training.py"] == found


PROMPT = """
    import torch
    from bases import Prompt


    class Wrapped(Prompt):
        def wrap(self, batch):
            return self.embedding(torch.LongTensor(list(range(4))){moved})
"""


@pytest.mark.parametrize(("moved", "found"), [(".cuda()", [8]), (".to(batch.device)", [])])
def test_a_network_by_a_base_of_another_file_makes_its_tensors_where_it_is(findings, moved, found):
    bases = "from torch import nn\n\n\nclass Prompt(nn.Module):\n    pass\n"
    files = {"bases.py": bases, "prompts.py": PROMPT.format(moved=moved)}
    assert [f.line for f in findings(files, select=["AMP030"]) if f.path == "prompts.py"] == found
