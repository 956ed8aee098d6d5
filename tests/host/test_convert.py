"""`convert` swaps the layers that it should, keeps their parameters, and leaves all else alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from halfulp.host.convert import convert, find_runner
from halfulp.host.device import GoldenDevice
from halfulp.host.linear import GemmLinear
from halfulp.host.recipe import get_recipe
from halfulp.hw.config import UnsupportedSpecError


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 4)
        self.body = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


class OnlyInt8(GoldenDevice):
    def check(self, spec, k=None):
        if spec.a.name != "int8":
            raise UnsupportedSpecError(f"A format {spec.a} is not built in; the core has int8")


def layer(model: nn.Module, name: str) -> GemmLinear:
    module = model.get_submodule(name)
    assert isinstance(module, GemmLinear)
    return module


def converted_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, GemmLinear)]


def test_all_linear_layers_are_swapped_in_place():
    model = Block().eval()
    before = dict(model.named_parameters())
    assert convert(model, "fp8-hybrid", device=GoldenDevice()) is model
    assert converted_names(model) == ["stem", "body.0", "head"]
    assert dict(model.named_parameters()).keys() == before.keys()
    assert all(p is before[name] for name, p in model.named_parameters())
    assert layer(model, "stem").site.name == "stem"
    assert not layer(model, "stem").training
    assert "fp8-hybrid: e4m3×e4m3" in repr(model)
    assert "in_features=6, out_features=4, bias=True" in repr(model)


def test_state_dicts_are_interchangeable_both_ways():
    plain, converted = Block(), convert(Block(), "fp8-hybrid", device=GoldenDevice())
    x = torch.ones(3, 6)
    before = converted(x)
    assert not torch.equal(before, converted(x * 2))
    converted.load_state_dict(plain.state_dict())
    assert not torch.equal(before, converted(x))  # the kept codes of the old weights are not used
    other = Block()
    other.load_state_dict(converted.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), plain.parameters(), strict=True))


def test_an_optimiser_made_before_keeps_working():
    model = Block()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    convert(model, "fp8-hybrid", device=GoldenDevice())
    x, losses = torch.ones(4, 6), []
    for _ in range(5):
        optimiser.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_overrides_and_filter_choose_layers():
    recipe = get_recipe("fp8-hybrid").with_overrides({"stem": "fp32", "body.*": "int8"})
    model = convert(Block(), recipe, device=GoldenDevice())
    assert converted_names(model) == ["body.0", "head"]
    assert layer(model, "body.0").site.recipe.name == "int8"
    assert type(model.get_submodule("stem")) is nn.Linear
    model = convert(Block(), "int8", device=GoldenDevice(), module_filter=lambda module, name: module.out_features == 4)
    assert converted_names(model) == ["stem", "body.0"]


def test_fp32_leaves_the_network_as_it_is():
    model = convert(Block(), "fp32", device=GoldenDevice())
    assert converted_names(model) == []
    with pytest.raises(ValueError, match="no layer of Block is converted"):
        find_runner(model)


def test_subclasses_of_linear_are_left_alone():
    attention = convert(nn.MultiheadAttention(8, 2), "fp8-hybrid", device=GoldenDevice())
    assert converted_names(attention) == []


def test_a_single_layer_comes_back_swapped():
    plain = nn.Linear(3, 2)
    converted = convert(plain, "int8", device=GoldenDevice())
    assert isinstance(converted, GemmLinear)
    assert converted.weight is plain.weight


def test_a_converted_network_can_follow_another_recipe():
    model = convert(Block(), "fp8-hybrid", device=GoldenDevice())
    convert(model, "int8", device=GoldenDevice())
    assert layer(model, "head").site.recipe.name == "int8"


def test_a_device_that_cannot_is_refused_before_anything_is_changed():
    model = Block()
    with pytest.raises(UnsupportedSpecError, match="the core has int8"):
        convert(model, "fp8-hybrid", device=OnlyInt8())
    assert converted_names(model) == []
    convert(model, "int8", device=OnlyInt8())


def test_other_dtypes_are_refused():
    with pytest.raises(TypeError, match=r"layer 'stem': weights must be float32, not torch\.bfloat16"):
        convert(Block().bfloat16(), "fp8-hybrid", device=GoldenDevice())


def test_devices_are_opened_by_name():
    model = convert(Block(), "fp8-hybrid", device="golden", seed=11)
    assert find_runner(model).device.name == "golden"
    assert find_runner(model).seed == 11
    with pytest.raises(ValueError, match="unknown device 'goldn'"):
        convert(copy.deepcopy(model), "fp8-hybrid", device="goldn")
