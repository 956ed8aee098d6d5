"""Torch operators of a linear layer whose three GEMMs run on a device: schema, fake kernel, autograd.

``halfulp::linear``
    Y = X·Wᵀ. It also returns what the backward pass needs, so that nothing is quantised twice: the codes of X and W
    and a record of scales and position.
``halfulp::linear_backward``
    dX = dY·W and dW = dYᵀ·X from those codes.

Both are pure functions of their arguments (the random bits come from the position), which is what `torch.compile`
takes them for.
"""

from __future__ import annotations

import math
from typing import Any
from weakref import WeakValueDictionary

import torch

from halfulp.host.operands import CODE_DTYPES, Operand
from halfulp.host.recipe import Recipe
from halfulp.host.runner import GemmRunner, GemmSite
from halfulp.numerics.block_formats import BlockFormat
from halfulp.numerics.formats import Format

__all__ = ["find_site", "linear", "linear_backward", "new_site"]

_SITES: WeakValueDictionary[int, GemmSite] = WeakValueDictionary()
_next_index = 0


def new_site(name: str, recipe: Recipe, runner: GemmRunner) -> GemmSite:
    """Register a layer, by the number that the ops take for it, until nobody holds the site any more."""
    global _next_index
    site = GemmSite(name, recipe, runner)
    site.index = _next_index
    _next_index += 1
    _SITES[site.index] = site
    return site


def find_site(index: int) -> GemmSite:
    """The site of this number; raise where its layer is gone."""
    site = _SITES.get(index)
    if site is None:
        raise ValueError(f"no converted layer has number {index}: it was freed, or belongs to another process")
    return site


@torch.library.custom_op("halfulp::linear", mutates_args=())
def linear(
    input: torch.Tensor, weight: torch.Tensor, position: torch.Tensor, site: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Y = X·Wᵀ on the site's device.

    Parameters
    ----------
    input
        X, float32 [..., in_features].
    weight
        W, float32 [out_features, in_features].
    position
        int64 [2]: step and call, for the seeds.
    site
        Number of the layer.

    Returns
    -------
    output
        float32 [..., out_features].
    input_codes, weight_codes
        Codes of X and W for the backward GEMMs, in their shapes.
    record
        int64 [4]: what scales all of X and of W (`Operand.factor_bits`), step, call.
    input_scales, weight_scales
        Scales of their blocks, uint8, where those formats are block-scaled; else empty, [0].
    """
    at = find_site(site)
    _check_features(input, weight)
    runner, recipe = at.runner, at.recipe
    step, call = position.tolist()
    x = runner.operand(input, at, "output", "activation", step=step, call=call)
    w = runner.operand(weight, at, "output", "weight", step=step, call=call)
    output = runner.gemm(_matrix(x), _transposed(w), at, "output", step=step, call=call)
    # The same codes again, where the backward GEMMs take the same formats as the forward one.
    if not _is_shared(recipe.gemm("output").a, recipe.gemm("grad_weight").b):
        x = runner.operand(input, at, "grad_weight", "activation", step=step, call=call)
    if not _is_shared(recipe.gemm("output").b, recipe.gemm("grad_input").b):
        w = runner.operand(weight, at, "grad_input", "weight", step=step, call=call)
    record = torch.tensor([x.factor_bits, w.factor_bits, step, call], dtype=torch.int64)
    return (
        output.reshape(*input.shape[:-1], weight.shape[0]),
        _copy(x.codes),
        _copy(w.codes),
        record,
        _copy_scales(x),
        _copy_scales(w),
    )


@linear.register_fake
def _(input: torch.Tensor, weight: torch.Tensor, position: torch.Tensor, site: int):
    _check_features(input, weight)
    recipe = find_site(site).recipe
    x_format, w_format = recipe.gemm("grad_weight").b, recipe.gemm("grad_input").b
    return (
        input.new_empty((*input.shape[:-1], weight.shape[0])),
        torch.empty(input.shape, dtype=_code_dtype(x_format), device=input.device),
        torch.empty(weight.shape, dtype=_code_dtype(w_format), device=weight.device),
        torch.empty(4, dtype=torch.int64, device=position.device),
        torch.empty(_scales_shape(input, x_format), dtype=torch.uint8, device=input.device),
        torch.empty(_scales_shape(weight, w_format), dtype=torch.uint8, device=weight.device),
    )


@torch.library.custom_op("halfulp::linear_backward", mutates_args=())
def linear_backward(
    grad_output: torch.Tensor,
    input_codes: torch.Tensor,
    weight_codes: torch.Tensor,
    record: torch.Tensor,
    input_scales: torch.Tensor,
    weight_scales: torch.Tensor,
    site: int,
    need_input: bool,
    need_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both backward GEMMs on the site's device: dX = dY·W, dW = dYᵀ·X; what is not needed comes back empty, [0].

    Parameters
    ----------
    grad_output
        dY, float32 [..., out_features].
    input_codes, weight_codes, record, input_scales, weight_scales
        What `linear` returned.
    site
        Number of the layer.
    need_input, need_weight
        Which of the two GEMMs to run.

    Returns
    -------
    grad_input
        float32 [..., in_features].
    grad_weight
        float32 [out_features, in_features].
    """
    at = find_site(site)
    runner, recipe = at.runner, at.recipe
    x_factor, w_factor, step, call = record.tolist()
    grad_input, grad_weight = grad_output.new_empty(0), grad_output.new_empty(0)
    if need_input:
        gradient = runner.operand(grad_output, at, "grad_input", "gradient", step=step, call=call)
        w = Operand.restored(weight_codes, weight_scales, w_factor, recipe.gemm("grad_input").b)
        product = runner.gemm(_matrix(gradient), w, at, "grad_input", step=step, call=call)
        grad_input = product.reshape(input_codes.shape)
    if need_weight:
        gradient = runner.operand(grad_output, at, "grad_weight", "gradient", step=step, call=call)
        x = Operand.restored(input_codes, input_scales, x_factor, recipe.gemm("grad_weight").b)
        grad_weight = runner.gemm(_transposed(_matrix(gradient)), _matrix(x), at, "grad_weight", step=step, call=call)
    return grad_input, grad_weight


@linear_backward.register_fake
def _(
    grad_output: torch.Tensor,
    input_codes: torch.Tensor,
    weight_codes: torch.Tensor,
    record: torch.Tensor,
    input_scales: torch.Tensor,
    weight_scales: torch.Tensor,
    site: int,
    need_input: bool,
    need_weight: bool,
):
    return (
        grad_output.new_empty(input_codes.shape if need_input else (0,)),
        grad_output.new_empty(weight_codes.shape if need_weight else (0,)),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.site = inputs[3]


def _backward(ctx: Any, grad_output: torch.Tensor, *_: Any):
    need_input, need_weight = ctx.needs_input_grad[:2]
    grad_input, grad_weight = linear_backward(grad_output, *ctx.saved_tensors, ctx.site, need_input, need_weight)
    return grad_input if need_input else None, grad_weight if need_weight else None, None, None


linear.register_autograd(_backward, setup_context=_setup_context)


def _check_features(input: torch.Tensor, weight: torch.Tensor) -> None:
    if input.ndim < 1 or weight.ndim != 2 or input.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"input is [..., in_features], weight [out_features, in_features]: "
            f"{tuple(input.shape)} and {tuple(weight.shape)} do not fit"
        )


def _matrix(x: Operand) -> Operand:
    """The operand as a matrix: all leading dimensions are rows."""
    codes = x.codes if x.codes.ndim == 2 else x.codes.reshape(-1, x.codes.shape[-1])
    return x._replace(codes=codes)


def _transposed(x: Operand) -> Operand:
    """The operand's transpose, a view: the hardware takes either layout."""
    return x._replace(codes=x.codes.t(), scales=None if x.scales is None else x.scales.t())


def _is_shared(forward: Format | BlockFormat, backward: Format | BlockFormat) -> bool:
    """Whether a backward GEMM takes the codes of the forward one: blocks lie along K, which is another axis there."""
    return forward == backward and not isinstance(forward, BlockFormat)


def _copy(x: torch.Tensor) -> torch.Tensor:
    """What an op may return: a compiled graph may write over it once it is used up, and operands are cached."""
    return x.clone(memory_format=torch.contiguous_format)


def _copy_scales(x: Operand) -> torch.Tensor:
    """A copy of the operand's scales; empty where it has none."""
    return torch.empty(0, dtype=torch.uint8, device=x.codes.device) if x.scales is None else _copy(x.scales)


def _code_dtype(fmt: Format | BlockFormat) -> torch.dtype:
    return CODE_DTYPES[(fmt.element if isinstance(fmt, BlockFormat) else fmt).container_bytes]


def _scales_shape(x: torch.Tensor, fmt: Format | BlockFormat) -> tuple[int, ...]:
    """Of the backward GEMM's operand: as a matrix, `x` has its blocks along axis 0 there."""
    if not isinstance(fmt, BlockFormat):
        return (0,)
    return fmt.block_count(math.prod(x.shape[:-1])), x.shape[-1]
