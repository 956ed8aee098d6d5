"""`emulator:cpu` and `emulator:cuda`: the emulator's codes, from tensors that stay on their device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from halfulp.host import operands, runner
from halfulp.host.convert import convert
from halfulp.host.device import open_device
from halfulp.numerics.gemm import GemmSpec


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def where(request):
    return request.param


@pytest.mark.parametrize("accumulator", ["exact", "e6m5:stochastic:9"])
def test_tensors_stay_and_codes_are_the_emulators(where, accumulator, rng):
    spec = GemmSpec("e4m3", "e5m2", "e4m3", accumulator, "stochastic:11")
    a, b = rng.integers(0, 0x70, (9, 33)).astype(np.uint8), rng.integers(0, 0x70, (33, 7)).astype(np.uint8)
    with open_device("emulator") as emulator, open_device(f"emulator:{where}") as device:
        expected = emulator.gemm(a, b, spec, seed=8)
        left, right = torch.from_numpy(a).to(where), torch.from_numpy(b).to(where)
        for operands in ((left, right), (left, b), (left.t().contiguous().t(), right)):
            got = device.gemm(*operands, spec, seed=8)
            assert isinstance(got.codes, torch.Tensor)
            assert got.codes.device.type == where
            assert (got.codes.cpu().numpy() == expected.codes).all()
            assert got[1:] == expected[1:]
        plain = device.gemm(a, b, spec, seed=8)
        assert isinstance(plain.codes, np.ndarray)
        assert (plain.codes == expected.codes).all()
        assert device.stats.gemms == 4
        assert device.stats.macs == 4 * 9 * 33 * 7


def test_results_are_verified(where, rng):
    a = torch.from_numpy(rng.integers(0, 0x70, (9, 33)).astype(np.uint8)).to(where)
    with open_device(f"emulator:{where}", verify=1.0) as device:
        got = device.gemm(a, a.t(), GemmSpec("e4m3", "e4m3"))
    assert isinstance(got.codes, torch.Tensor)
    assert got.codes.device.type == where


def trained(recipe, device, where):
    """Output, gradient of the input, and parameters after two steps of a small network."""
    torch.manual_seed(5)
    net = torch.nn.Sequential(torch.nn.Linear(40, 17), torch.nn.ReLU(), torch.nn.Linear(17, 5)).to(where)
    net = convert(net, recipe, device=device, seed=3)
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    x = torch.randn(2, 3, 40).to(where).requires_grad_()
    for _ in range(2):
        optimiser.zero_grad()
        net(x).square().sum().backward()
        optimiser.step()
    assert x.grad is not None
    found = [net(x), x.grad, *net.parameters()]
    assert {t.device.type for t in found} == {where}
    return [t.detach().cpu() for t in found]


@pytest.mark.parametrize("recipe", ["fp8-hybrid", "nvfp4", "int8"])
def test_layers_whose_tensors_stay_train_as_on_the_emulator(where, recipe, monkeypatch):
    """On torch's CPU device too they are quantised and decoded by torch operations, as on any other."""
    expected = trained(recipe, "emulator", "cpu")
    for module in (operands, runner):
        monkeypatch.setattr(module, "on_cpu", lambda x: False)
    for got, want in zip(trained(recipe, f"emulator:{where}", where), expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.gpu
def test_layers_on_the_gpu_need_a_device_that_takes_their_tensors():
    with pytest.raises(ValueError, match="weights must be on the CPU for emulator, not on cuda:0"):
        convert(torch.nn.Linear(2, 2).cuda(), "fp8-hybrid", device="emulator")


def test_what_torch_does_not_have_is_refused():
    with pytest.raises(ValueError, match="emulator:tpu: torch has no such device here: "):
        open_device("emulator:tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="emulator:cuda: torch has no such device here: "):
            open_device("emulator:cuda")


def test_a_closed_device_is_refused():
    device = open_device("emulator:cpu")
    device.close()
    ones = torch.full((1, 1), 0x38, dtype=torch.uint8)
    with pytest.raises(ValueError, match="device emulator:cpu has been closed"):
        device.gemm(ones, ones, GemmSpec("e4m3", "e4m3"))
