"""The ops: right by the golden model, GEMM by GEMM; proper torch operators; nothing quantised twice."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from halfulp.host.convert import convert, find_runner
from halfulp.host.device import GoldenDevice
from halfulp.host.linear import GemmLinear
from halfulp.host.recipe import GemmRole, Recipe, TensorRole, get_recipe
from halfulp.host.runner import GemmCall, GemmRunner
from halfulp.host.scaling import scale_exponent
from halfulp.host.seeds import gemm_seed
from halfulp.numerics.block_formats import BlockFormat
from halfulp.numerics.block_gemm import BlockGemmSpec, golden_block_gemm
from halfulp.numerics.exact import from_float64
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.numerics.random_bits import output_words

STOCHASTIC = Recipe(
    name="stochastic",
    output=GemmRole(a="e4m3", b="e4m3", out="bfloat16", rounding="stochastic:8"),
    grad_input=GemmRole(a="e5m2", b="e4m3", out="bfloat16", rounding="stochastic_floor:4"),
    grad_weight=GemmRole(a="e5m2", b="int8", rounding="stochastic:16"),  # X is wanted in a second format
    activation=TensorRole(rounding="stochastic:8"),
    weight=TensorRole(rounding="stochastic:8", margin=1),
    gradient=TensorRole(rounding="stochastic:8"),
)


BLOCKS = Recipe(
    name="blocks",
    output=GemmRole(a="mxfp4_e2m1", b="mxfp8_e4m3"),
    grad_input=GemmRole(a="nvfp4", b="nvfp4", out="bfloat16", accumulator="e6m5:stochastic:13"),
    grad_weight=GemmRole(a="e5m2", b="e4m3"),  # a plain GEMM beside the others
    activation=TensorRole(rounding="stochastic:4"),
    gradient=TensorRole(rounding="stochastic:8"),
)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 5, bias=False))


def batch(seed: int = 1, *shape: int):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape or (6, 12)).astype(np.float32))


def layer_of(recipe: str | Recipe = "fp8-hybrid") -> GemmLinear:
    return first_of(convert(network(), recipe, device=GoldenDevice(), seed=3))


def first_of(net: nn.Module) -> GemmLinear:
    return next(module for module in net.modules() if isinstance(module, GemmLinear))


def grad(x):
    assert x.grad is not None
    return x.grad


def encoded(x, spec_format, role: TensorRole) -> tuple[np.ndarray, int]:
    """Codes and scale of a tensor, by the golden model alone."""
    s = scale_exponent(x.detach().abs().max().item(), spec_format) if role.scaling == "dynamic" else 0
    real = from_float64(x.detach().numpy())
    return spec_format.encode(real._replace(exponent=real.exponent + s), role.rounding).codes, s


@pytest.mark.parametrize("name", ["fp8-hybrid", "fp8-e4m3", "bf16", "fp16"])
def test_the_three_gemms_are_the_golden_models(name: str):
    recipe = get_recipe(name)
    layer = layer_of(name)
    x, dy = batch(1, 6, 12).requires_grad_(), batch(2, 6, 8)
    y = layer(x)
    y.backward(dy)
    xs = encoded(x, recipe.gemm("output").a, recipe.activation)
    ws = encoded(layer.weight, recipe.gemm("output").b, recipe.weight)
    ds = encoded(dy, recipe.gemm("grad_input").a, recipe.gradient)

    def golden(role: str, a: tuple[np.ndarray, int], b: tuple[np.ndarray, int]):
        gemm = recipe.gemm(role)
        assert isinstance(gemm.spec, GemmSpec)
        result = golden_gemm(a[0], b[0], GemmSpec(a=gemm.spec.a, b=gemm.spec.b, scale=-(a[1] + b[1])))
        return torch.from_numpy(result.codes.view(np.float32))

    assert torch.equal(y, golden("output", xs, (ws[0].T, ws[1])) + layer.bias)
    assert torch.equal(grad(x), golden("grad_input", ds, ws))
    assert torch.equal(grad(layer.weight), golden("grad_weight", (ds[0].T, ds[1]), xs))
    assert torch.equal(grad(layer.bias), dy.sum(0))


def test_a_recipe_of_enough_bits_is_near_float32():
    plain, converted = network(), convert(network(), "fp16", device=GoldenDevice())
    x = batch()
    for net in (plain, converted):
        net(x).square().sum().backward()
    for one, other in zip(plain.parameters(), converted.parameters(), strict=True):
        assert torch.allclose(grad(one), grad(other), rtol=1e-2, atol=1e-3 * float(grad(one).abs().max()))


def test_each_gemm_has_its_own_seed_and_the_scales_are_undone_in_it():
    calls: list[GemmCall] = []
    net = network()
    convert(net, "fp8-hybrid", device=GemmRunner(GoldenDevice(), seed=3, observer=calls.append))
    find_runner(net).step = 5
    net(batch()).sum().backward()
    net(batch())
    assert [(c.layer, c.role, c.step, c.call) for c in calls] == [
        ("0", "output", 5, 0),
        ("2", "output", 5, 1),
        ("2", "grad_input", 5, 1),
        ("2", "grad_weight", 5, 1),
        ("0", "grad_weight", 5, 0),  # the input needs no gradient: no GEMM is spent on it
        ("0", "output", 5, 2),
        ("2", "output", 5, 3),
    ]
    assert len({c.seed for c in calls}) == len(calls)
    assert calls[0].seed == gemm_seed(3, layer="0", role="output", step=5, call=0)
    assert calls[0].spec.scale != 0


def test_nothing_is_quantised_twice():
    net = convert(network(), "fp8-hybrid", device=GoldenDevice())
    operands = find_runner(net).operands
    x = batch()
    net(x).sum().backward()
    assert operands.quantisations == 6  # X, W, dY of two layers, for five GEMMs
    with torch.no_grad():
        net(x)
    assert operands.quantisations == 7  # the hidden activation is a new tensor; X and both W are not
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    net(x)
    assert operands.quantisations == 10


def test_layers_that_share_an_input_quantise_it_once():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key = nn.Linear(12, 4), nn.Linear(12, 4)

        def forward(self, x):
            return self.query(x) + self.key(x)

    net = convert(Heads(), "fp8-e4m3", device=GoldenDevice())
    net(batch(1, 2, 3, 12))
    assert find_runner(net).operands.quantisations == 3


def test_results_depend_on_seed_step_and_call_alone():
    def run(seed: int, step: int, before: int) -> list:
        net = convert(network(), STOCHASTIC, device=GoldenDevice(), seed=seed)
        runner = find_runner(net)
        for _ in range(before):  # what ran earlier does not matter
            net(batch(7))
        runner.step = step
        loss = net(batch()).square().sum()
        return [loss.detach(), *torch.autograd.grad(loss, list(net.parameters()))]

    def equal(one: list, other: list) -> bool:
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    assert equal(run(1, 4, 0), run(1, 4, 3))
    assert not equal(run(1, 4, 0), run(2, 4, 0))
    assert not equal(run(1, 4, 0), run(1, 5, 0))


def test_a_stochastic_weight_keeps_its_codes_within_a_step():
    net = convert(network(), STOCHASTIC, device=GoldenDevice())
    operands = find_runner(net).operands
    net(batch())
    first = operands.quantisations
    net(batch(8))
    # New: the activations, in two formats each. Not the weights.
    assert operands.quantisations == first + 4
    find_runner(net).step = 1
    net(batch(8))
    assert operands.quantisations == first + 4 + 6


@pytest.mark.parametrize("recipe", ["fp8-hybrid", "int8", STOCHASTIC, BLOCKS], ids=str)
def test_opcheck(recipe: str | Recipe):
    layer = layer_of(recipe)
    position, site = torch.tensor([4, 1]), layer.site.index
    x = batch(1, 2, 3, 12).requires_grad_()
    torch.library.opcheck(torch.ops.halfulp.linear.default, (x, layer.weight, position, site))
    y, *saved = torch.ops.halfulp.linear(x, layer.weight, position, site)
    for needs in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(torch.ops.halfulp.linear_backward.default, (y.detach(), *saved, site, *needs))


@pytest.mark.parametrize("recipe", [STOCHASTIC, BLOCKS], ids=str)
def test_a_compiled_network_has_no_graph_break_and_gives_the_same_bits(recipe: Recipe):
    eager = convert(network(), recipe, device=GoldenDevice(), seed=3)
    compiled = convert(network(), recipe, device=GoldenDevice(), seed=3)
    run = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for step in range(3):
        for net, call in ((eager, eager), (compiled, run)):
            find_runner(net).step = step
            net.zero_grad()
            call(batch(step)).square().sum().backward()
            call(batch(step + 10)).sum().backward()
            with torch.no_grad():
                for p in net.parameters():
                    p -= 0.01 * grad(p)
        assert find_runner(eager).position.tolist() == find_runner(compiled).position.tolist() == [step, 4]
        for one, other in zip(eager.parameters(), compiled.parameters(), strict=True):
            assert torch.equal(one, other)


def test_leading_dimensions_are_rows():
    layer = layer_of()
    x = batch(1, 2, 3, 12)
    assert torch.equal(layer(x), layer(x.reshape(6, 12)).reshape(2, 3, 8))
    assert torch.equal(layer(x[0, 0]), layer(x[0, :1])[0])


@pytest.mark.parametrize("recipe", ["fp8-hybrid", "nvfp4"])
def test_an_empty_batch_runs_no_gemm(recipe: str):
    layer = layer_of(recipe)
    x = torch.zeros(0, 12, requires_grad=True)
    layer(x).sum().backward()
    assert layer.site.runner.counts.gemms == 0
    assert torch.equal(grad(layer.weight), torch.zeros(8, 12))
    assert grad(x).shape == (0, 12)


def test_wrong_inputs_are_named():
    layer = layer_of()
    with pytest.raises(ValueError, match=r"\(2, 11\) and \(8, 12\) do not fit"):
        layer(torch.zeros(2, 11))
    with pytest.raises(TypeError, match=r"must be float32, not torch\.float64"):
        layer(torch.zeros(2, 12, dtype=torch.float64))
    with pytest.raises(ValueError, match="no converted layer has number 123456"):
        torch.ops.halfulp.linear(batch(), layer.weight.detach(), torch.zeros(2, dtype=torch.int64), 123456)


def test_nan_where_the_format_has_none_names_the_layer():
    net = convert(network(), "int8", device=GoldenDevice())
    find_runner(net).step = 9
    with pytest.raises(ValueError, match="layer '0', step 9: the activation has NaN, which int8 has no code for"):
        net(torch.full((1, 12), float("nan")))


def test_nan_and_infinity_propagate_where_the_formats_have_them():
    net = convert(network(), "fp8-hybrid", device=GoldenDevice())
    x = batch()
    x[2, 3] = float("nan")
    y = first_of(net)(x)
    assert y[2].isnan().all()
    assert y[:2].isfinite().all()


def test_a_copy_shares_the_device_and_keeps_its_own_weights():
    net = convert(network(), "fp8-hybrid", device=GoldenDevice())
    other = copy.deepcopy(net)
    assert find_runner(other) is find_runner(net)
    with torch.no_grad():
        first_of(other).weight.mul_(0)
    assert not torch.equal(net(batch()), other(batch()))


@pytest.mark.parametrize("name", ["mxfp8", "nvfp4"])
def test_each_gemm_of_a_block_recipe_has_its_blocks_along_its_own_k(name: str):
    """Forward along in_features, dX along out_features, dW along the samples: by the golden model alone."""
    torch.manual_seed(0)
    calls: list[GemmCall] = []
    runner = GemmRunner(GoldenDevice(), seed=3, observer=calls.append)
    layer = convert(nn.Linear(40, 37), name, device=runner)
    assert isinstance(layer, GemmLinear)
    runner.step = 5
    x = batch(2, 3, 7, 40).requires_grad_()
    y = layer(x)
    y.backward(dy := batch(3, 3, 7, 37))
    recipe = get_recipe(name)
    x_matrix, dy_matrix = x.detach().reshape(21, 40).numpy(), dy.reshape(21, 37).numpy()
    w = layer.weight.detach().numpy()
    operands = {
        "output": ((x_matrix, "activation", 1, False), (w, "weight", 1, True)),
        "grad_input": ((dy_matrix, "gradient", 1, False), (w, "weight", 0, False)),
        "grad_weight": ((dy_matrix, "gradient", 0, True), (x_matrix, "activation", 0, False)),
    }
    assert [call.role for call in calls] == list(operands)
    for call in calls:
        gemm, blocks = recipe.gemm(call.role), []
        for fmt, (matrix, role, axis, is_transposed) in zip((gemm.a, gemm.b), operands[call.role], strict=True):
            assert isinstance(fmt, BlockFormat)
            mode, words = recipe.tensor(role).rounding, None
            if mode.is_stochastic:
                seed = gemm_seed(3, layer="", role=role, step=5, call=0)
                words = output_words(seed, np.arange(21), np.arange(37), mode.random_bits)
            made = fmt.quantise(matrix, mode, axis=axis, random=words)
            blocks.append(made._replace(codes=made.codes.T, scales=made.scales.T) if is_transposed else made)
        seed = gemm_seed(3, layer="", role=call.role, step=5, call=0)
        assert isinstance(call.spec, BlockGemmSpec)
        expected = golden_block_gemm(blocks[0], blocks[1], call.spec, seed=seed)
        np.testing.assert_array_equal(call.result.codes, expected.codes)
    product = torch.from_numpy(calls[0].result.codes.view(np.float32)).reshape(y.shape)
    assert torch.equal(y, product + layer.bias)
    assert grad(x).shape == x.shape
    np.testing.assert_array_equal(grad(layer.weight).numpy().view(np.uint32), calls[2].result.codes)


def test_emulator_and_golden_train_alike_in_blocks():
    nets = [convert(network(), BLOCKS, device=device, seed=3) for device in (GoldenDevice(), "emulator")]
    for net in nets:
        net(batch()).square().sum().backward()
    for one, other in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(grad(one), grad(other))


def test_nan_of_a_block_reaches_its_outputs_and_no_others():
    net = convert(nn.Linear(64, 3), "mxfp8", device=GoldenDevice())
    x = batch(4, 2, 64)
    x[1, 5] = float("nan")
    assert torch.isnan(net(x)).any(dim=1).tolist() == [False, True]
