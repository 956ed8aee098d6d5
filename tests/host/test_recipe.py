"""Recipes: what they ask of a device, how layers override them, and that a wrong one is refused."""

from __future__ import annotations

from typing import Any, cast

import pytest

from halfulp.host.recipe import GEMM_ROLES, RECIPES, GemmRole, Recipe, TensorRole, get_recipe, requirements
from halfulp.hw.config import ArrayConfig
from halfulp.numerics.block_gemm import BlockGemmSpec
from halfulp.numerics.formats import get_format
from halfulp.numerics.rounding import Rounding


@pytest.mark.parametrize("name", RECIPES.names())
def test_a_named_recipe_is_complete(name: str):
    recipe = get_recipe(name)
    assert recipe.name == name
    assert recipe.source
    assert recipe.short_str().startswith(name)
    assert len(requirements(recipe)) == (0 if name == "fp32" else len({recipe.gemm(r).spec for r in GEMM_ROLES}))
    assert recipe == get_recipe(name)
    assert hash(recipe) == hash(get_recipe(name))


def test_the_hybrid_recipe_is_e4m3_forward_and_e5m2_for_gradients():
    e4m3, e5m2 = get_format("e4m3"), get_format("e5m2")
    recipe = get_recipe("fp8-hybrid")
    formats = {role: (recipe.gemm(role).a, recipe.gemm(role).b) for role in GEMM_ROLES}
    assert formats == {"output": (e4m3, e4m3), "grad_input": (e5m2, e4m3), "grad_weight": (e5m2, e4m3)}
    assert recipe.tensor("gradient").scaling == "dynamic"


def test_the_default_core_runs_the_fp8_recipes():
    for name in ("fp8-hybrid", "fp8-e4m3"):
        core = ArrayConfig(a_formats=["e4m3", "e5m2"], b_formats=["e4m3"])
        for spec in requirements(name):
            core.check_spec(spec)


def test_int8_rounds_gradients_stochastically():
    assert get_recipe("int8").tensor("gradient").rounding == Rounding("stochastic", 8)
    assert not get_recipe("int8").tensor("activation").rounding.is_stochastic


def test_the_first_override_that_matches_counts():
    recipe = get_recipe("fp8-hybrid").with_overrides({"head": "fp32", "blocks.*": "int8"})
    assert recipe.for_layer("head").name == "fp32"
    assert recipe.for_layer("blocks.0.fc1").name == "int8"
    assert recipe.for_layer("stem").gemm("output") == get_recipe("fp8-hybrid").gemm("output")
    first = recipe.with_overrides({"blocks.0.*": "fp8-e4m3"})
    assert first.for_layer("blocks.0.fc1").name == "fp8-e4m3"
    assert first.for_layer("blocks.1.fc1").name == "int8"


def test_requirements_list_each_gemm_once_and_those_of_overrides():
    assert len(requirements("fp8-e4m3")) == 1
    assert len(requirements("fp8-hybrid")) == 2
    mixed = get_recipe("fp8-hybrid").with_overrides({"head": "int8", "stem": "fp32"})
    assert set(requirements(mixed)) == set(requirements("fp8-hybrid")) | set(requirements("int8"))


def test_an_unknown_recipe_answers_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown recipe 'fp8-hibrid'; nearest: 'fp8-hybrid'"):
        get_recipe("fp8-hibrid")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: TensorRole(scaling="dynamc"), ValueError, "unknown scaling 'dynamc'; nearest: 'dynamic'"),
        (lambda: TensorRole(margin=-1), ValueError, "margin must be 0 to 64, not -1"),
        (lambda: TensorRole(margin=cast(Any, 0.5)), TypeError, "margin must be an integer power of two, not 0.5"),
        (lambda: TensorRole(rounding="stochastic:17"), ValueError, "at most 16 random bits, not stochastic:17"),
        (lambda: GemmRole(a="e4m4x", b="e4m3"), ValueError, "unknown format 'e4m4x'"),
        (
            lambda: Recipe(name="half", output=GemmRole(a="int8", b="int8")),
            ValueError,
            "recipe 'half' must describe all three GEMMs or none; grad_input, grad_weight is missing",
        ),
        (lambda: get_recipe("fp32").gemm("output"), ValueError, "'fp32' leaves its layers in float32"),
        (lambda: get_recipe("int8").gemm("grad"), ValueError, "unknown GEMM role 'grad'"),
        (lambda: get_recipe("int8").tensor("bias"), ValueError, "unknown tensor role 'bias'"),
    ],
)
def test_a_wrong_value_is_named(make, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make()


def test_block_recipes_ask_for_block_gemms():
    for name, fmt in (("mxfp8", "mxfp8_e4m3"), ("mxfp6", "mxfp6_e2m3"), ("nvfp4", "nvfp4")):
        (spec,) = requirements(name)
        assert spec == BlockGemmSpec(fmt, fmt, "float32", "e8m23")
    assert get_recipe("nvfp4").tensor("gradient").rounding.is_stochastic
    assert get_recipe("mxfp8").short_str().startswith("mxfp8: mxfp8_e4m3×mxfp8_e4m3→float32→fp32, ")
    with pytest.raises(ValueError, match="both operands must be block-scaled, and B is float8_e4m3fn"):
        GemmRole(a="mxfp8_e4m3", b="e4m3")
    with pytest.raises(ValueError, match=r"unknown format 'mxfp9'; nearest: .*mxfp"):
        GemmRole(a="mxfp9", b="e4m3")
