import pytest

from ampguard.errors import ConfigError
from ampguard.precision.patterns import matching, parse_overrides

FQNS = ("", "embed", "blocks", "blocks.0", "blocks.0.norm", "blocks.0.mlp", "blocks.0.mlp.norm", "blocks.1", "Norm")


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("", [""]),
        ("embed", ["embed"]),
        ("*", ["embed", "blocks", "Norm"]),
        ("blocks.*", ["blocks.0", "blocks.1"]),
        ("blocks.*.norm", ["blocks.0.norm"]),
        ("**.norm", ["blocks.0.norm", "blocks.0.mlp.norm"]),
        ("blocks.**", ["blocks", "blocks.0", "blocks.0.norm", "blocks.0.mlp", "blocks.0.mlp.norm", "blocks.1"]),
        ("blocks.**.norm", ["blocks.0.norm", "blocks.0.mlp.norm"]),
        ("blocks.[1-9]", ["blocks.1"]),
        ("blocks.?.m*", ["blocks.0.mlp"]),
        ("**", list(FQNS)),
    ],
)
def test_a_star_stays_within_a_component_and_two_cross_them(glob, found):
    assert matching(glob, FQNS) == found


@pytest.mark.parametrize("glob", ["norm", "blocks.norm", "*.*.*.*.*", "blocks*norm", "blocks.0.", ".embed"])
def test_what_matches_nothing_is_an_error(glob):
    with pytest.raises(ConfigError, match="matches no module"):
        matching(glob, FQNS)


def test_the_error_has_the_closest_names():
    with pytest.raises(ConfigError, match=r"override 'block.*.norm' .* Close: 'blocks.0.norm'"):
        matching("block.*.norm", FQNS)


def test_where_nothing_is_close_it_explains_globs_and_names_the_children():
    with pytest.raises(ConfigError, match=r"'\*\*' crosses them; the model has 'embed', 'blocks', 'Norm'\."):
        matching("zzz", FQNS)


def test_items_become_a_mapping_in_their_order():
    parsed = parse_overrides(["blocks.*.norm=fp32", " lm_head = bf16 "])
    assert list(parsed.items()) == [("blocks.*.norm", "fp32"), ("lm_head", "bf16")]


def test_a_glob_given_again_moves_last_as_the_last_one_holds():
    assert list(parse_overrides(["a=fp32", "*=bf16", "a=fp16"]).items()) == [("*", "bf16"), ("a", "fp16")]


@pytest.mark.parametrize("item", ["lm_head", "=fp32", "lm_head=", "", "="])
def test_another_form_is_an_error_with_item_and_form(item):
    with pytest.raises(ConfigError, match="has not the form GLOB=PRECISION") as caught:
        parse_overrides([item])
    assert repr(item) in caught.value.message
