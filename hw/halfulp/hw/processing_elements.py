"""The processing element of each kind of accumulator."""

from __future__ import annotations

from halfulp.hw.block_pe import BlockProcessingElement
from halfulp.hw.config import ArrayConfig
from halfulp.hw.fixed_pe import FixedProcessingElement
from halfulp.hw.float_pe import FloatProcessingElement
from halfulp.hw.packed_pe import PackedProcessingElement
from halfulp.hw.pe import ExactProcessingElement, ProcessingElement
from halfulp.hw.shifting_pe import ShiftingProcessingElement
from halfulp.numerics.accumulators import Accumulator, ExactAccumulator, FixedAccumulator, FloatAccumulator

__all__ = ["PROCESSING_ELEMENTS", "processing_element"]

PROCESSING_ELEMENTS: dict[type[Accumulator], type[ProcessingElement]] = {
    ExactAccumulator: ExactProcessingElement,
    FixedAccumulator: FixedProcessingElement,
    FloatAccumulator: FloatProcessingElement,
}
"""The PE of each kind of accumulator."""


def processing_element(config: ArrayConfig) -> type[ProcessingElement]:
    """The kind of PE that `config.accumulator` asks for; operands of other forms have their own."""
    if config.block:
        return BlockProcessingElement
    if config.pack_multipliers:
        return PackedProcessingElement
    if config.shift_in_multipliers:
        return ShiftingProcessingElement
    kind = type(config.accumulator)
    if kind not in PROCESSING_ELEMENTS:
        raise ValueError(f"no processing element is built for accumulator {config.accumulator}")
    return PROCESSING_ELEMENTS[kind]
