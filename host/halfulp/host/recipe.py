"""Recipes: which numbers each GEMM of a layer and each of its tensors takes. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from halfulp.numerics.accumulators import Accumulator
from halfulp.numerics.block_formats import BlockFormat
from halfulp.numerics.block_gemm import AnyGemmSpec, gemm_spec
from halfulp.numerics.formats import FORMATS, Format
from halfulp.numerics.names import Registry, unknown_name
from halfulp.numerics.rounding import NEAREST_EVEN, Rounding

__all__ = [
    "GEMM_ROLES",
    "RECIPES",
    "SCALINGS",
    "TENSOR_ROLES",
    "GemmRole",
    "Recipe",
    "TensorRole",
    "get_recipe",
    "requirements",
]

SCALINGS = ("none", "dynamic")
"""How a tensor is scaled before it is quantised: not at all, or by a power of two from its largest magnitude."""

GEMM_ROLES = ("output", "grad_input", "grad_weight")
"""The three GEMMs of a linear layer: Y = X·Wᵀ, dX = dY·W, dW = dYᵀ·X."""

TENSOR_ROLES = ("activation", "weight", "gradient")
"""What a GEMM multiplies: X, W, dY."""

OPERANDS = {
    "output": ("activation", "weight"),
    "grad_input": ("gradient", "weight"),
    "grad_weight": ("gradient", "activation"),
}
"""The tensor roles of A and B in each GEMM role."""


@dataclass(frozen=True, kw_only=True)
class TensorRole:
    """How the tensors of one role become codes.

    Parameters
    ----------
    scaling
        ``dynamic``: each tensor is multiplied by the largest power of two that keeps all of it finite in the format;
        ``none``: it is taken as it is. Block-scaled formats bring their own scales instead.
    margin
        Powers of two left free above the largest magnitude, with ``dynamic`` scaling; 0 to 64.
    rounding
        The quantiser's rounding, or its spelling (``stochastic:8``); at most 16 random bits.
    """

    scaling: str = "dynamic"
    margin: int = 0
    rounding: Rounding = NEAREST_EVEN

    if TYPE_CHECKING:  # what may be given, which is more than what is held

        def __init__(self, *, scaling: str = ..., margin: int = ..., rounding: Rounding | str = ...) -> None: ...

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise unknown_name("scaling", self.scaling, SCALINGS)
        if isinstance(self.margin, bool) or not isinstance(self.margin, int):
            raise TypeError(f"margin must be an integer power of two, not {self.margin!r}")
        if not 0 <= self.margin <= 64:
            raise ValueError(f"margin must be 0 to 64, not {self.margin}")
        if isinstance(self.rounding, str):
            object.__setattr__(self, "rounding", Rounding.parse(self.rounding))
        if self.rounding.random_bits > 16:
            raise ValueError(f"a quantiser takes at most 16 random bits, not {self.rounding}")

    def __str__(self) -> str:
        margin = f"-{self.margin}" if self.margin else ""
        return f"{self.scaling}{margin}, {self.rounding}"


@dataclass(frozen=True, kw_only=True)
class GemmRole:
    """What one of a layer's three GEMMs is computed with; all fields as `gemm_spec` takes them, also as spellings.

    Operands in block-scaled formats are quantised along the GEMM's own K. The power-of-two rescaling is no part of it:
    it follows from the scales of the two operands.
    """

    a: Format | BlockFormat
    b: Format | BlockFormat
    out: Format = field(default_factory=lambda: FORMATS.get("float32"))
    accumulator: Accumulator | None = None
    rounding: Rounding = NEAREST_EVEN
    overflow: str = "saturate"
    spec: AnyGemmSpec = field(init=False, repr=False, compare=False)

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            a: Format | BlockFormat | str,
            b: Format | BlockFormat | str,
            out: Format | str = ...,
            accumulator: Accumulator | str | None = ...,
            rounding: Rounding | str = ...,
            overflow: str = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("a", "b", "out", "accumulator", "rounding", "overflow")}
        spec = gemm_spec(**given)
        for name in given:
            object.__setattr__(self, name, getattr(spec, name))
        object.__setattr__(self, "spec", spec)

    def __str__(self) -> str:
        rounding = "" if self.rounding == NEAREST_EVEN else f" {self.rounding}"
        return f"{_short(self.a)}×{_short(self.b)}→{self.accumulator}→{_short(self.out)}{rounding}"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a network is trained with: numbers for the three GEMMs of each layer and for their operands.

    Parameters
    ----------
    name
        What it is called.
    output, grad_input, grad_weight
        The GEMMs Y = X·Wᵀ, dX = dY·W and dW = dYᵀ·X. All three None: the layer stays as it is, in float32 on the
        host.
    activation, weight, gradient
        How X, W and dY are scaled and quantised.
    overrides
        Pairs of a layer-name pattern (``fnmatch``: ``"head"``, ``"blocks.0.*"``) and the recipe for those layers; the
        first that matches counts. `with_overrides` makes them from names.
    source
        Where it comes from.

    Notes
    -----
    Gradients are operand A in both backward GEMMs, so a core that takes e4m3 and e5m2 on its A side and e4m3 alone on
    its B side runs the hybrid recipe.
    """

    name: str
    output: GemmRole | None = None
    grad_input: GemmRole | None = None
    grad_weight: GemmRole | None = None
    activation: TensorRole = TensorRole()
    weight: TensorRole = TensorRole()
    gradient: TensorRole = TensorRole()
    overrides: tuple[tuple[str, Recipe], ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        given = [role for role in GEMM_ROLES if getattr(self, role) is not None]
        if given and len(given) != len(GEMM_ROLES):
            missing = ", ".join(role for role in GEMM_ROLES if role not in given)
            raise ValueError(f"recipe {self.name!r} must describe all three GEMMs or none; {missing} is missing")
        resolved = tuple((pattern, get_recipe(recipe)) for pattern, recipe in self.overrides)
        object.__setattr__(self, "overrides", resolved)

    @property
    def is_offloaded(self) -> bool:
        """Whether the layers' GEMMs run on a device (overrides aside)."""
        return self.output is not None

    def gemm(self, role: str) -> GemmRole:
        """The GEMM of this role; raise where the recipe leaves the layer in float32."""
        if role not in GEMM_ROLES:
            raise unknown_name("GEMM role", role, GEMM_ROLES)
        gemm = getattr(self, role)
        if gemm is None:
            raise ValueError(f"recipe {self.name!r} leaves its layers in float32: it has no GEMM {role!r}")
        return gemm

    def tensor(self, role: str) -> TensorRole:
        """The scaling and rounding of tensors of this role."""
        if role not in TENSOR_ROLES:
            raise unknown_name("tensor role", role, TENSOR_ROLES)
        return getattr(self, role)

    def for_layer(self, name: str) -> Recipe:
        """The recipe of the layer called `name`: the first override whose pattern matches, or this one."""
        for pattern, recipe in self.overrides:
            if fnmatchcase(name, pattern):
                return recipe.for_layer(name)
        return self

    def with_overrides(self, overrides: Mapping[str, Recipe | str]) -> Recipe:
        """A copy in which layers whose names match a pattern follow another recipe.

        >>> get_recipe("fp8-hybrid").with_overrides({"*.head": "fp32"}).for_layer("net.head").name
        'fp32'
        """
        added = tuple((pattern, get_recipe(recipe)) for pattern, recipe in overrides.items())
        return replace(self, overrides=added + self.overrides)

    def __str__(self) -> str:
        return self.name

    def short_str(self) -> str:
        """One line for a module's printed form.

        >>> get_recipe("fp8-hybrid").short_str()
        'fp8-hybrid: e4m3×e4m3→exact→fp32, e5m2×e4m3→exact→fp32, e5m2×e4m3→exact→fp32'
        """
        if not self.is_offloaded:
            return f"{self.name}: float32 on the host"
        return f"{self.name}: " + ", ".join(str(self.gemm(role)) for role in GEMM_ROLES)


RECIPES: Registry[Recipe] = Registry("recipe")
"""All named recipes."""


def get_recipe(name: str | Recipe) -> Recipe:
    """The recipe of this name, or `name` itself where it is a recipe already."""
    return name if isinstance(name, Recipe) else RECIPES.get(name)


def requirements(recipe: str | Recipe) -> tuple[AnyGemmSpec, ...]:
    """The GEMMs that a device must be able to run for `recipe`, its overrides included: each once, with scale 0."""
    found: dict[AnyGemmSpec, None] = {}
    pending = [get_recipe(recipe)]
    while pending:
        each = pending.pop(0)
        if each.is_offloaded:
            found.update((each.gemm(role).spec, None) for role in GEMM_ROLES)
        pending += [override for _, override in each.overrides]
    return tuple(found)


def _short(fmt: Format | BlockFormat) -> str:
    """The field's short name of a format."""
    aliases = FORMATS.aliases(fmt.name)
    return aliases[0] if aliases else fmt.name


def _two_formats(
    name: str,
    forward: str,
    backward: str,
    source: str,
    *,
    values: TensorRole = TensorRole(),
    gradient: TensorRole = TensorRole(),
) -> Recipe:
    """A recipe with one format for activations and weights, one for gradients, float32 results."""
    return Recipe(
        name=name,
        output=GemmRole(a=forward, b=forward),
        grad_input=GemmRole(a=backward, b=forward),
        grad_weight=GemmRole(a=backward, b=forward),
        activation=values,
        weight=values,
        gradient=gradient,
        source=source,
    )


_AS_IT_IS = TensorRole(scaling="none")

for _recipe in (
    # The reference that the others are held against: torch's own float32, nothing leaves the host.
    Recipe(name="fp32", source="IEEE 754 binary32, torch's own matmul"),
    _two_formats(
        "bf16",
        "bfloat16",
        "bfloat16",
        "Kalamkar et al. 2019",
        values=_AS_IT_IS,
        gradient=_AS_IT_IS,
    ),
    # Micikevicius et al. scale the loss so that gradients reach float16's range; a scale a tensor does the same.
    _two_formats("fp16", "float16", "float16", "Micikevicius et al. 2018"),
    _two_formats("fp8-hybrid", "float8_e4m3fn", "float8_e5m2", "Sun et al. 2019 (HFP8); Micikevicius et al. 2022"),
    _two_formats("fp8-e4m3", "float8_e4m3fn", "float8_e4m3fn", "Micikevicius et al. 2022"),
    _two_formats("mxfp8", "mxfp8_e4m3", "mxfp8_e4m3", "OCP MX v1.0; Mishra et al. 2025"),
    _two_formats("mxfp6", "mxfp6_e2m3", "mxfp6_e2m3", "OCP MX v1.0; Rouhani et al. 2023"),
    # As NVIDIA trains (Abecassis et al. 2025), without the Hadamard transform of the weight gradient's operands.
    _two_formats(
        "nvfp4", "nvfp4", "nvfp4", "Abecassis et al. 2025", gradient=TensorRole(rounding=Rounding("stochastic", 16))
    ),
    # Gradients are rounded stochastically: to the nearest, most of them would be zero (Banner et al. 2018, section 4).
    _two_formats("int8", "int8", "int8", "Banner et al. 2018", gradient=TensorRole(rounding=Rounding("stochastic", 8))),
):
    RECIPES.register(_recipe.name, _recipe)
