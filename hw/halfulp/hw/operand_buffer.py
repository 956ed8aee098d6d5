"""The banks that hold one operand on its way from the bus to the array's edge."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from halfulp.hw.config import ArrayConfig

__all__ = ["BeatSignature", "OperandBuffer", "StepSignature"]


class BeatSignature(wiring.Signature):
    """One bus word on its way into the banks of one operand.

    operand: 0 A, 1 B. word: address in the banks. Layout along K (across = 0): the word goes to bank `bank` as it
    is. Layout across K: it is beat `beat` of a line of one step; the line's element i lies `offset` + i elements
    after the start of its beat 0 and goes to bank i, element `lane` of the word there.
    last: the block is complete with this beat.
    """

    def __init__(self, config: ArrayConfig) -> None:
        lanes = max(config.rows, config.columns)
        lane = ceil_log2(config.bus_bytes)
        super().__init__(
            {
                "valid": Out(1),
                "operand": Out(1),
                "across": Out(1),
                "word": Out(ceil_log2(config.buffer_depth)),
                "bank": Out(ceil_log2(lanes) or 1),
                "lane": Out(lane),
                "offset": Out(lane),
                "beat": Out(bits_for(lanes)),
                "last": Out(1),
                "data": Out(config.bus_width),
            }
        )


class StepSignature(wiring.Signature):
    """One step of K asked of the banks.

    element: position in bank 0, in elements from the bank's start (word × elements a word + element in it);
    offset: what part of it is the row's start within a bus word; stride: elements, modulo a word, by which each
    next row starts later. free: after this step a slot is free; parity: of the GEMM it belongs to.
    """

    def __init__(self, config: ArrayConfig, element_bytes: int) -> None:
        lane = ceil_log2(config.bus_bytes // element_bytes)
        super().__init__(
            {
                "valid": Out(1),
                "element": Out(ceil_log2(config.buffer_depth) + lane),
                "offset": Out(lane),
                "stride": Out(lane),
                "free": Out(1),
                "parity": Out(1),
            }
        )


class OperandBuffer(wiring.Component):
    """One bank a row (column) of the array: `buffer_depth` words of the bus's width, with element enables.

    Writes: a beat accepted in clock t is in the banks for reads that start in clock t + 2. Reads: a step given in
    clock t reads bank i in clock t + 1 + i and its code leaves in clock t + `latency` + i: the array's skew. One
    step and one beat every clock, no back-pressure. A slot freed by a step given in clock t is reported in
    clock t + `lanes`: all banks have been read, or are being read, by then.

    Parameters
    ----------
    config
        The core.
    operand
        0 for A, 1 for B: which beats are taken, and the size of elements and array.

    Members
    -------
    beat, step
        See `BeatSignature`, `StepSignature`.
    codes
        Code of each row (column), skewed by one clock a row.
    freed, freed_parity
        A slot may be overwritten.
    """

    beat: Any
    step: Any
    codes: Any
    freed: Signal
    freed_parity: Signal

    latency = 3

    def __init__(self, *, config: ArrayConfig, operand: int) -> None:
        if operand not in (0, 1):
            raise ValueError(f"operand must be 0 (A) or 1 (B), not {operand!r}")
        self._config = config
        self._operand = operand
        self._lanes = config.columns if operand else config.rows
        self._bytes = config.b_bytes if operand else config.a_bytes
        super().__init__(
            {
                "beat": In(BeatSignature(config)),
                "step": In(StepSignature(config, self._bytes)),
                "codes": Out(data.ArrayLayout(unsigned(8 * self._bytes), self._lanes)),
                "freed": Out(1),
                "freed_parity": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Build write stage, banks and read pipeline."""
        m = Module()
        config, lanes, bits = self._config, self._lanes, 8 * self._bytes
        elements = config.bus_bytes // self._bytes
        lane_bits = ceil_log2(elements)

        enables, lane_enables, address, words = self._write_stage(m, elements)
        step = self.step
        reading = Signal(lanes)
        freeing = Signal(lanes)
        parity = Signal(lanes, reset_less=True)
        m.d.sync += [
            reading.eq(Cat(step.valid, reading)),
            freeing.eq(Cat(step.valid & step.free, freeing)),
            parity.eq(Cat(step.parity, parity)),
        ]
        m.d.comb += [self.freed.eq(freeing[-1]), self.freed_parity.eq(parity[-1])]

        element, offset, stride = step.element, step.offset, step.stride
        for i in range(lanes):
            # This bank's position, and what the next bank's follows from: a later start within the word moves it.
            here = Signal(len(step.element), name=f"element{i}", reset_less=True)
            start = Signal(lane_bits, name=f"offset{i}", reset_less=True)
            move = Signal(lane_bits, name=f"stride{i}", reset_less=True)
            m.d.sync += [here.eq(element), start.eq(offset), move.eq(stride)]

            m.submodules[f"bank{i}"] = bank = memory.Memory(
                shape=unsigned(config.bus_width), depth=config.buffer_depth, init=[]
            )
            write, read = bank.write_port(granularity=bits), bank.read_port()
            m.d.comb += [
                write.en.eq(Mux(enables[i], lane_enables, 0)),
                write.addr.eq(address),
                write.data.eq(words[i % elements]),
                read.en.eq(reading[i]),
                read.addr.eq(here[lane_bits:]),
            ]
            lane = Signal(lane_bits, name=f"lane{i}", reset_less=True)
            code = Signal(bits, name=f"code{i}", reset_less=True)
            m.d.sync += [lane.eq(here[:lane_bits]), code.eq(read.data.word_select(lane, bits))]
            m.d.comb += self.codes[i].eq(code)

            later = Signal(lane_bits + 1, name=f"later{i}")
            m.d.comb += later.eq(start + move)
            element = here + move - Cat(*([0] * lane_bits), later[-1])
            offset, stride = later[:lane_bits], move
        return m

    def _write_stage(self, m: Module, elements: int) -> tuple[Signal, Signal, Signal, list[Value]]:
        """Turn beats across K, and register them: bank and element enables, address, and a word a bank class.

        Element i of a line across K lies at position offset + i, counted from the line's first bus word. So bank i
        takes position (offset + i) mod E of the word with number (offset + i) div E: after a rotation by offset all
        banks with the same i mod E take the same element, and whether the division carries depends on these bits
        and offset alone.
        """
        config, beat = self._config, self.beat
        lane_bits = ceil_log2(elements)
        enables = Signal(self._lanes)
        lane_enables = Signal(elements, reset_less=True)
        address = Signal(ceil_log2(config.buffer_depth), reset_less=True)
        across = Signal(reset_less=True)
        word = Signal(config.bus_width, reset_less=True)

        offset = beat.offset[:lane_bits]
        rotated: Value = beat.data
        for bit in range(lane_bits):
            rotated = Mux(offset[bit], rotated.rotate_right(8 * self._bytes << bit), rotated)
        carries = [offset >= elements - q if q else 0 for q in range(elements)]
        groups = range(-(-self._lanes // elements) + 1)
        here = Array([beat.beat == group for group in groups])
        hits = []
        for i in range(self._lanes):
            group, position = divmod(i, elements)
            hit = Mux(carries[position], here[group + 1], here[group])
            hits.append(Mux(beat.across, hit, beat.bank == i))

        m.d.sync += enables.eq(0)
        with m.If(beat.valid & (beat.operand == self._operand)):
            m.d.sync += [
                enables.eq(Cat(*hits)),
                lane_enables.eq(Mux(beat.across, 1 << beat.lane[:lane_bits], (1 << elements) - 1)),
                address.eq(beat.word),
                across.eq(beat.across),
                word.eq(Mux(beat.across, rotated, beat.data)),
            ]
        words: list[Value] = []
        for q in range(elements):
            # One element enable is set across K: every element of the word may carry the one wanted.
            wanted = word.word_select(q, 8 * self._bytes)
            words.append(Mux(across, wanted.replicate(elements), word))
        return enables, lane_enables, address, words
