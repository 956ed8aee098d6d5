"""The largest array that a board's part has room for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from halfulp.boards.blocks import block_area
from halfulp.boards.board import Board
from halfulp.boards.open_build import (
    ALONE,
    SHARED_FROM,
    OpenBuild,
    ResourceError,
    build_open,
    design_parameters,
    multipliers_for,
    occupied,
    serial_design,
    serial_part,
)
from halfulp.boards.place import PLACE_TIMEOUT
from halfulp.boards.programs import ProgramError
from halfulp.boards.synthesis import Area, synthesise
from halfulp.hw.config import ArrayConfig

__all__ = [
    "FILL",
    "FILL_CELLS",
    "AreaModel",
    "Fit",
    "FittedBuild",
    "build_fitted",
    "candidates",
    "fit_board",
    "fit_model",
    "fits",
    "part_limits",
]

FILL = Area(luts=0.85, flip_flops=0.95, dsps=1, block_rams=1)
"""Share of each resource that a design may take: beyond that place and route fails, or takes hours."""

FILL_CELLS = {
    "ice40": Area(luts=0.98, flip_flops=1, dsps=1, block_rams=1),
    "gowin": Area(luts=0.94, flip_flops=0.95, dsps=1, block_rams=1),
}
"""The same of logic cells, by flow: a LUT and a flip-flop each, that can only be used together."""

TRIES = 3
"""Sizes that are synthesised, each the next smaller, where the model was wrong by more than a row; and sizes that are
placed and routed, each smaller by `STEP`, where the part was too full for that."""

STEP = 0.95
"""Elements of an array in place of those of one that could not be placed and routed: it leaves some room to do so."""

LARGEST = 64
"""Rows and columns of a core."""


@dataclass(frozen=True, kw_only=True)
class AreaModel:
    """Area of a core behind a serial link by the size of its array: linear in rows, columns, and elements.

    Attributes
    ----------
    base, row, column
        What is there at any size, and what each row and column adds: buffers, decoders, the drain's registers.
    elements
        A processing element, by what its product is made of; see `multipliers_for`.
    rows_per_element
        Rows that share one row of processing elements.
    """

    base: Area
    row: Area
    column: Area
    elements: dict[str, Area]
    rows_per_element: int = 1

    def area(self, rows: int, columns: int, multipliers: str) -> Area:
        """What an array of this size would take."""
        elements = self.elements[multipliers] * (rows * columns // self.rows_per_element)
        return self.base + self.row * rows + self.column * columns + elements


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The largest array that fits.

    Attributes
    ----------
    config
        With the rows and columns that were found.
    estimate, area
        What the model said, and what synthesis then made of it.
    limits
        What a design may take of the part.
    synthesised
        Sizes that were synthesised, the last of which fits.
    """

    config: ArrayConfig
    estimate: Area
    area: Area
    limits: Area
    synthesised: Sequence[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class FittedBuild:
    """A bitstream of the largest array that could be built.

    Attributes
    ----------
    fit
        The array.
    build
        Its bitstream.
    failures
        Of larger ones, why there is none; a line each.
    """

    fit: Fit
    build: OpenBuild
    failures: Sequence[str]


def part_limits(board: Board) -> Area:
    """What a design may take of a board's part."""
    serial = serial_part(board)
    has = Area(board.luts, serial.flip_flops, board.dsps, serial.block_rams)
    shares = FILL_CELLS.get(board.flow, FILL)
    return Area(*(share * count for share, count in zip(astuple(shares), astuple(has), strict=True)))


def fit_board(
    board: Board,
    config: ArrayConfig,
    *,
    frequency: float,
    baud: int,
    memory_bytes: int,
    most: int | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> Fit:
    """The size with the most processing elements that fits a board; of equal ones the squarest.

    A model is fitted to three small cores and a processing element; what it names is confirmed by synthesis. All
    parameters of `config` stay but rows and columns. Of arrays of more than `most` outputs none is looked at.

    Raises
    ------
    ResourceError
        Where not even the smallest array fits.
    ProgramError
        Where Yosys is missing, fails or takes too long.
    """
    from halfulp.boards.board_top import DESIGN  # with Amaranth, which the model does without

    serial, limits = serial_part(board), part_limits(board)

    def synthesised(rows: int, columns: int) -> Area:
        progress(f"synthesising {rows}×{columns}")
        sized = config.replace(rows=rows, columns=columns)
        made = synthesise(
            {"design.v": serial_design(sized, frequency=frequency, baud=baud, memory_bytes=memory_bytes)},
            top=DESIGN,
            family=serial.family,
            what=f"synthesis of {sized.name} for {board.name}",
            multipliers=multipliers_for(sized, board.dsps),
            share_elements=rows * columns >= SHARED_FROM,
        )
        return occupied(board, made.area)

    model = fit_model(board, config, synthesised)
    tried: list[tuple[int, int]] = []
    sizes = candidates(config, model, limits, board.dsps)
    for rows, columns in [size for size in sizes if most is None or size[0] * size[1] <= most][:TRIES]:
        sized = config.replace(rows=rows, columns=columns)
        area = synthesised(rows, columns)
        tried.append((rows, columns))
        if fits(area, limits):
            estimate = model.area(rows, columns, multipliers_for(sized, board.dsps))
            return Fit(config=sized, estimate=estimate, area=area, limits=limits, synthesised=tried)
    if tried:
        sizes = ", ".join(f"{rows}×{columns}" for rows, columns in tried)
        raise ResourceError(f"the sizes that should have fitted {board.name} do not, by synthesis: {sizes}")
    least = model.area(config.rows_per_element, config.lanes, multipliers_for(config, board.dsps))
    unit = "logic cells" if board.flow in ALONE else "LUTs"
    raise ResourceError(
        f"not even {config.rows_per_element}×{config.lanes} fits {board.name}: about {least.luts:.0f} {unit} and "
        f"{least.block_rams:.0f} block RAMs of {limits.luts:.0f} and {limits.block_rams:.0f}; fewer formats and "
        "roundings, narrower address_bits and size_bits, buffer_depth = 64 or --memory 4096 make it smaller"
    )


def build_fitted(
    board: Board,
    config: ArrayConfig,
    *,
    clock_mhz: float | None = None,
    baud: int | None = None,
    memory_bytes: int | None = None,
    seed: int = 1,
    timeout: float = PLACE_TIMEOUT,
    progress: Callable[[str], None] = lambda stage: None,
) -> FittedBuild:
    """The bitstream of the largest array that fits a board; where it cannot be placed and routed, of a smaller one.

    Takes the arguments of `halfulp.boards.open_build.build_open`, and raises its errors where the third and smallest
    array that is tried fails too.
    """
    design: dict[str, Any] = {"clock_mhz": clock_mhz, "baud": baud, "memory_bytes": memory_bytes}
    failures: list[str] = []
    most = None
    while True:
        found = fit_board(board, config, most=most, progress=progress, **design_parameters(board, config, **design))
        size = f"{found.config.rows}×{found.config.columns}"
        try:
            build = build_open(
                board,
                found.config,
                seed=seed,
                timeout=timeout,
                progress=lambda stage, size=size: progress(f"{stage} {size}"),
                **design,
            )
        except ProgramError as error:
            failures.append(str(error))
            most = int(STEP * found.config.rows * found.config.columns)
            if len(failures) == TRIES or not most:
                raise
        else:
            return FittedBuild(fit=found, build=build, failures=failures)


def fit_model(board: Board, config: ArrayConfig, synthesised: Callable[[int, int], Area]) -> AreaModel:
    """The model through three small cores, whose areas `synthesised` gives, and the processing element."""
    rows, columns = 2 * config.rows_per_element, max(2, config.lanes)
    sizes = (rows, columns), (2 * rows, columns), (rows, 2 * columns)
    kinds = {multipliers_for(config.replace(rows=r, columns=c), board.dsps) for r, c in (*sizes, (LARGEST, LARGEST))}
    family = serial_part(board).family
    elements = {
        kind: occupied(
            board, block_area(config, "processing element", family=family, dsps=board.dsps if kind == "dsps" else 0)
        )
        for kind in kinds
    }

    def rest(size: tuple[int, int]) -> Area:
        r, c = size
        kind = multipliers_for(config.replace(rows=r, columns=c), board.dsps)
        return synthesised(r, c) + elements[kind] * -(r * c // config.rows_per_element)

    small, tall, wide = map(rest, sizes)
    row = (tall + small * -1) * (1 / rows)
    column = (wide + small * -1) * (1 / columns)
    base = small + row * -rows + column * -columns
    return AreaModel(base=base, row=row, column=column, elements=elements, rows_per_element=config.rows_per_element)


def candidates(config: ArrayConfig, model: AreaModel, limits: Area, dsps: int) -> list[tuple[int, int]]:
    """Sizes that should fit by the model, the largest first."""
    sizes = []
    for rows in range(config.rows_per_element, LARGEST + 1, config.rows_per_element):
        for columns in range(config.lanes, LARGEST + 1, config.lanes):
            kind = multipliers_for(config.replace(rows=rows, columns=columns), dsps)
            if fits(model.area(rows, columns, kind), limits):
                sizes.append((rows, columns))
    return sorted(sizes, key=lambda size: (-size[0] * size[1], abs(size[0] - size[1]), -size[0]))


def fits(area: Area, limits: Area) -> bool:
    """Whether no resource is over its limit."""
    return all(used <= limit for used, limit in zip(astuple(area), astuple(limits), strict=True))
