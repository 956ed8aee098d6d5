"""Tensors become the codes of the golden model's encoder, and are quantised once while they do not change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from halfulp.host.operands import OperandCache, quantise_operand
from halfulp.host.recipe import TensorRole
from halfulp.host.scaling import scale_exponent
from halfulp.numerics.exact import from_float64
from halfulp.numerics.formats import get_format
from halfulp.numerics.random_bits import output_words
from halfulp.numerics.rounding import Rounding

ROLES = [
    TensorRole(),
    TensorRole(scaling="none"),
    TensorRole(margin=3, rounding="stochastic:8"),
    TensorRole(rounding="stochastic_floor:4"),
]


def tensor(rng: np.random.Generator, *shape: int, magnitude: float = 1.0):
    values = rng.standard_normal(shape) * 2.0 ** rng.integers(-12, 4, shape) * magnitude
    return torch.from_numpy(values.astype(np.float32))


@pytest.mark.parametrize("role", ROLES, ids=str)
@pytest.mark.parametrize("name", ["e4m3", "e5m2", "int8", "int4", "bfloat16"])
@pytest.mark.parametrize("magnitude", [1.0, 2.0**-140, 2.0**110])
def test_codes_are_those_of_the_exact_encoder(name: str, role: TensorRole, magnitude: float, rng):
    fmt, x, seed = get_format(name), tensor(rng, 5, 7, magnitude=magnitude), 99
    operand = quantise_operand(x, fmt, role, seed=seed)
    real = from_float64(x.numpy())
    random = None
    if role.rounding.is_stochastic:
        random = output_words(seed, np.arange(5), np.arange(7), role.rounding.random_bits)
    expected = fmt.encode(real._replace(exponent=real.exponent + operand.exponent), role.rounding, random)
    assert np.array_equal(operand.codes.numpy(), expected.codes)
    assert operand.codes.numpy().dtype == fmt.code_dtype
    if role.scaling == "dynamic":
        assert not expected.overflow.any()
    else:
        assert operand.exponent == 0


@pytest.mark.parametrize(
    "view", [lambda x: x.t(), lambda x: x[:, ::2], lambda x: x[:1].expand(6, 8), lambda x: x.reshape(2, 3, 8)]
)
def test_any_strides_and_dimensions(view, rng):
    x = view(tensor(rng, 6, 8))
    operand = quantise_operand(x, get_format("e5m2"), TensorRole())
    plain = quantise_operand(x.contiguous().clone(), get_format("e5m2"), TensorRole())
    assert operand.codes.shape == x.shape
    assert torch.equal(operand.codes, plain.codes)


def test_stochastic_bits_of_more_dimensions_are_those_of_the_matrix_of_rows(rng):
    x, role = tensor(rng, 2, 3, 8), TensorRole(rounding="stochastic:6")
    codes = quantise_operand(x, get_format("int8"), role, seed=5).codes
    assert torch.equal(codes.reshape(6, 8), quantise_operand(x.reshape(6, 8), get_format("int8"), role, seed=5).codes)
    assert not torch.equal(codes, quantise_operand(x, get_format("int8"), role, seed=6).codes)


def test_zero_nan_and_infinity_are_defined():
    e4m3, e5m2, int8 = get_format("e4m3"), get_format("e5m2"), get_format("int8")
    assert quantise_operand(torch.zeros(2, 2), e4m3, TensorRole())[1:3] == (0, False)
    # The scale comes from the finite elements; NaN and Inf become what the format has for them.
    x = torch.tensor([[1.0, math.nan, math.inf, -math.inf, -1.0]])
    for fmt in (e4m3, e5m2, int8):
        assert quantise_operand(x, fmt, TensorRole()).exponent == quantise_operand(x[:, :1], fmt, TensorRole()).exponent
    e5m2_codes = quantise_operand(x, e5m2, TensorRole()).codes.numpy()
    values = e5m2.to_float64(e5m2_codes)[0]
    assert np.isnan(values[1])
    assert values[2] == math.inf
    assert values[3] == -math.inf
    assert quantise_operand(x, int8, TensorRole()).invalid
    assert quantise_operand(x[:, 2:], int8, TensorRole()).invalid is False
    assert quantise_operand(torch.full((1, 3), math.nan), e4m3, TensorRole())[1:3] == (0, False)


@pytest.mark.parametrize(
    ("values", "amax"),
    [
        ([-3.0, 2.0], 3.0),
        ([math.nan, -3.0], 3.0),
        ([-math.inf, 2.0], 2.0),
        ([math.inf, math.nan, 0.5], 0.5),
        ([math.nan], 0.0),
        ([], 0.0),
    ],
)
def test_the_scale_comes_from_the_largest_finite_magnitude(values: list[float], amax: float):
    operand = quantise_operand(torch.tensor([values]), get_format("e5m2"), TensorRole())
    assert operand.exponent == scale_exponent(amax, get_format("e5m2"))


def test_other_dtypes_are_refused():
    with pytest.raises(TypeError, match=r"must be float32, not torch\.float64"):
        quantise_operand(torch.zeros(2, 2, dtype=torch.float64), get_format("e4m3"), TensorRole())


def test_a_tensor_is_quantised_once_until_it_changes(rng):
    cache, fmt, role = OperandCache(), get_format("e4m3"), TensorRole()
    x = tensor(rng, 4, 4)
    first = cache.get(x, fmt, role)
    assert cache.get(x, fmt, role) is first
    assert cache.quantisations == 1
    cache.get(x, get_format("e5m2"), role)
    assert cache.quantisations == 2
    assert cache.get(x, fmt, role) is first
    x.mul_(4)
    changed = cache.get(x, fmt, role)
    assert cache.quantisations == 3
    assert changed.exponent == first.exponent - 2
    cache.clear()
    cache.get(x, fmt, role)
    assert cache.quantisations == 4


def test_stochastic_codes_are_kept_by_seed(rng):
    cache, role = OperandCache(), TensorRole(rounding=Rounding("stochastic", 8))
    x = tensor(rng, 4, 4)
    one = cache.get(x, get_format("int8"), role, seed=1)
    assert cache.get(x, get_format("int8"), role, seed=1) is one
    assert cache.get(x, get_format("int8"), role, seed=2) is not one
    assert cache.quantisations == 2


def test_a_new_tensor_at_an_old_ones_address_is_not_mistaken_for_it():
    cache, fmt, role = OperandCache(), get_format("e4m3"), TensorRole()
    for value in range(1, 17):  # e4m3 has all of them
        x = torch.full((3, 3), float(value))  # very likely in the memory that the one before it had
        operand = cache.get(x, fmt, role)
        assert (fmt.to_float64(operand.codes.numpy()) == value * 2.0**operand.exponent).all()
        del x, operand
    assert cache.quantisations == 16


def test_an_inference_tensor_is_never_kept():
    cache = OperandCache()
    with torch.inference_mode():
        x = torch.ones(2, 2)
        cache.get(x, get_format("e4m3"), TensorRole())
        x.mul_(2)
        assert cache.get(x, get_format("e4m3"), TensorRole()).exponent == 7
    assert cache.quantisations == 2
