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

from typing import Any
from weakref import WeakValueDictionary

import torch

from halfulp.host.operands import CODE_DTYPES, Operand
from halfulp.host.recipe import Recipe
from halfulp.host.runner import GemmRunner, GemmSite

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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
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
        int64 [4]: scale exponents of these two, step, call.
    """
    at = find_site(site)
    _check_features(input, weight)
    runner, recipe = at.runner, at.recipe
    step, call = position.tolist()
    x = runner.operand(input, at, "output", "activation", step=step, call=call)
    w = runner.operand(weight, at, "output", "weight", step=step, call=call)
    output = runner.gemm(_matrix(x), _transposed(w), at, "output", step=step, call=call)
    # The same codes again, where the backward GEMMs take the same formats as the forward one.
    if recipe.gemm("grad_weight").b != recipe.gemm("output").a:
        x = runner.operand(input, at, "grad_weight", "activation", step=step, call=call)
    if recipe.gemm("grad_input").b != recipe.gemm("output").b:
        w = runner.operand(weight, at, "grad_input", "weight", step=step, call=call)
    record = torch.tensor([x.exponent, w.exponent, step, call], dtype=torch.int64)
    # Copies: a compiled graph may write over an op's output once it is used up, and the operands are cached.
    return output.reshape(*input.shape[:-1], weight.shape[0]), x.codes.clone(), w.codes.clone(), record


@linear.register_fake
def _(input: torch.Tensor, weight: torch.Tensor, position: torch.Tensor, site: int):
    _check_features(input, weight)
    recipe = find_site(site).recipe
    x_dtype = CODE_DTYPES[recipe.gemm("grad_weight").b.container_bytes]
    w_dtype = CODE_DTYPES[recipe.gemm("grad_input").b.container_bytes]
    return (
        input.new_empty((*input.shape[:-1], weight.shape[0])),
        torch.empty(input.shape, dtype=x_dtype, device=input.device),
        torch.empty(weight.shape, dtype=w_dtype, device=weight.device),
        torch.empty(4, dtype=torch.int64, device=position.device),
    )


@torch.library.custom_op("halfulp::linear_backward", mutates_args=())
def linear_backward(
    grad_output: torch.Tensor,
    input_codes: torch.Tensor,
    weight_codes: torch.Tensor,
    record: torch.Tensor,
    site: int,
    need_input: bool,
    need_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both backward GEMMs on the site's device: dX = dY·W, dW = dYᵀ·X; what is not needed comes back empty, [0].

    Parameters
    ----------
    grad_output
        dY, float32 [..., out_features].
    input_codes, weight_codes, record
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
    runner = at.runner
    x_exponent, w_exponent, step, call = record.tolist()
    grad_input, grad_weight = grad_output.new_empty(0), grad_output.new_empty(0)
    if need_input:
        gradient = runner.operand(grad_output, at, "grad_input", "gradient", step=step, call=call)
        w = Operand(weight_codes, w_exponent, False)
        product = runner.gemm(_matrix(gradient), w, at, "grad_input", step=step, call=call)
        grad_input = product.reshape(input_codes.shape)
    if need_weight:
        gradient = runner.operand(grad_output, at, "grad_weight", "gradient", step=step, call=call)
        x = Operand(input_codes, x_exponent, False)
        grad_weight = runner.gemm(_transposed(_matrix(gradient)), _matrix(x), at, "grad_weight", step=step, call=call)
    return grad_input, grad_weight


@linear_backward.register_fake
def _(
    grad_output: torch.Tensor,
    input_codes: torch.Tensor,
    weight_codes: torch.Tensor,
    record: torch.Tensor,
    site: int,
    need_input: bool,
    need_weight: bool,
):
    return (
        grad_output.new_empty(input_codes.shape if need_input else (0,)),
        grad_output.new_empty(weight_codes.shape if need_weight else (0,)),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    _, input_codes, weight_codes, record = output
    ctx.save_for_backward(input_codes, weight_codes, record)
    ctx.site = inputs[3]


def _backward(ctx: Any, grad_output: torch.Tensor, *_: Any):
    input_codes, weight_codes, record = ctx.saved_tensors
    need_input, need_weight = ctx.needs_input_grad[:2]
    grad_input, grad_weight = linear_backward(
        grad_output, input_codes, weight_codes, record, ctx.site, need_input, need_weight
    )
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
    return x._replace(codes=x.codes.t())
