"""Claims about the byte-level GPT."""

import pytest
import torch

from ampguard.errors import ConfigError
from ampguard.tasks.gpt import GPT, GPTConfig

SMALL = GPTConfig(layers=2, width=16, heads=2, context=12)


def test_a_token_never_sees_a_later_one():
    torch.manual_seed(0)
    model = GPT(SMALL).eval()
    tokens = torch.randint(256, (2, 12))
    changed = tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 256
    before, after = model(tokens), model(changed)
    assert before.shape == (2, 12, 256)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_attention_is_softmax_of_scaled_products_written_out():
    torch.manual_seed(0)
    attention = GPT(SMALL).blocks[0].attention
    x = torch.randn(2, 5, 16)
    query, key, value = attention.query_key_value(x).split(16, dim=-1)
    heads = []
    for columns in (slice(0, 8), slice(8, 16)):
        scores = query[..., columns] @ key[..., columns].transpose(1, 2) / 8**0.5
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf"))
        heads.append(scores.softmax(-1) @ value[..., columns])
    # Sums of at most 16 terms of size <= 1 in float32.
    torch.testing.assert_close(attention(x), attention.project(torch.cat(heads, -1)), rtol=1e-5, atol=1e-6)


def test_the_output_matrix_is_the_token_embedding():
    model = GPT(SMALL)
    assert model.lm_head.weight is model.tokens.weight
    assert len(list(model.parameters())) == len({id(p) for p in model.parameters()})


def test_weights_are_drawn_as_in_gpt_2():
    torch.manual_seed(0)
    model = GPT(GPTConfig(layers=2, width=128, heads=2, context=64))
    block = model.blocks[0]
    # 16,384 draws: the standard deviation is known to 1/sqrt(2 * 16384) = 0.6 %; 3 % is five of those.
    for matrix in (model.tokens.weight, block.attention.query_key_value.weight, block.mlp.expand.weight):
        assert matrix.std().item() == pytest.approx(0.02, rel=0.03)
    for matrix in (block.attention.project.weight, block.mlp.project.weight):
        assert matrix.std().item() == pytest.approx(0.02 / 2, rel=0.03)
    assert not block.mlp.expand.bias.any()


def test_dropout_is_off_unless_asked_for():
    torch.manual_seed(0)
    tokens = torch.randint(256, (1, 12))
    plain = GPT(SMALL).train()
    assert torch.equal(plain(tokens), plain(tokens))
    noisy = GPT(GPTConfig(layers=2, width=16, heads=2, context=12, dropout=0.5))
    assert not torch.equal(noisy(tokens), noisy(tokens))
    noisy.eval()
    assert torch.equal(noisy(tokens), noisy(tokens))


@pytest.mark.parametrize(
    "change",
    [{"layers": 0}, {"context": 0}, {"heads": 3}, {"dropout": 1.0}, {"dropout": -0.1}, {"dropout": float("nan")}],
)
def test_senseless_sizes_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        GPTConfig(**{"layers": 2, "width": 16, "heads": 2, "context": 12, **change})
