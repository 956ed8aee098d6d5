"""The banks that hold one operand on its way from the bus to the array's edge."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from halfulp.hw.config import ArrayConfig

__all__ = ["BeatSignature", "OperandBuffer", "StepSignature"]


class BeatSignature(wiring.Signature):
    """One bus word on its way into the banks of one operand.

    operand: 0 A, 1 B. word: address in the banks. Layout along K (across = 0): the word goes to bank `bank` as it
    is. Layout across K: it is beat `beat` of a line of one step; the line's element i lies `offset` + i elements
    after the start of beat 0 and goes to bank i. There it becomes the word's element (`lane` + i) modulo a word, so
    that one `rotation` of the bus word, by lane - offset elements, serves all banks.
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
                "rotation": Out(lane),
                "data": Out(config.bus_width),
            }
        )


class StepSignature(wiring.Signature):
    """One step of K asked of the banks.

    position: of the step in its slot's ring, in elements: first word × elements a word + step.
    first: of its segment; then offset, stride and across say where rows lie: along K row i begins
    offset + i · stride elements, modulo a word, after its bank's first word; across K (offset 0, stride 1) each step
    has its own element of the word, turned by one from row to row.
    free: after this step the slot is free; parity: of the GEMM it belongs to.
    """

    def __init__(self, config: ArrayConfig, element_bytes: int) -> None:
        lane = ceil_log2(config.bus_bytes // element_bytes)
        super().__init__(
            {
                "valid": Out(1),
                "position": Out(ceil_log2(config.buffer_depth) + lane),
                "first": Out(1),
                "offset": Out(lane),
                "stride": Out(lane),
                "across": Out(1),
                "free": Out(1),
                "parity": Out(1),
            }
        )


class OperandBuffer(wiring.Component):
    """One bank a row (column) of the array: `buffer_depth` words of the bus's width, with element enables.

    Writes: a beat given in clock t is in the banks for steps given from clock t + 1 on. Reads: a step given in clock t
    reads bank i in clock t + 1 + i and its code leaves in clock t + `latency` + i: the array's skew. One
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

    latency = 4

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

        hit, chosen, address, word = self._write_stage(m, elements)
        step = self.step
        reading, beginning, freeing = Signal(lanes), Signal(lanes), Signal(lanes)
        parity = Signal(lanes, reset_less=True)
        m.d.sync += [
            reading.eq(Cat(step.valid, reading)),
            beginning.eq(Cat(step.valid & step.first, beginning)),
            freeing.eq(Cat(step.valid & step.free, freeing)),
            parity.eq(Cat(step.parity, parity)),
        ]
        m.d.comb += [self.freed.eq(freeing[-1]), self.freed_parity.eq(parity[-1])]

        position, offset = step.position, step.offset
        stride, across, first, begins = step.stride, step.across, step.first, step.valid & step.first
        for i in range(lanes):
            # Positions go from bank to bank; where in a word this bank's row begins, and the next bank's, follows from
            # the bank before, and only changes with the segment.
            here = Signal(len(step.position), name=f"position{i}", reset_less=True)
            turn = Signal(lane_bits, name=f"offset{i}", reset_less=True)
            next_turn = Signal(lane_bits, name=f"next_offset{i}", reset_less=True)
            turns = Signal(lane_bits, name=f"stride{i}", reset_less=True)
            wraps = Signal(name=f"across{i}", reset_less=True)
            m.d.sync += here.eq(position)
            with m.If(begins):
                m.d.sync += [turn.eq(offset), next_turn.eq(offset + stride), turns.eq(stride), wraps.eq(across)]

            # A register, for the memory block may lie far away.
            read_address = Signal(ceil_log2(config.buffer_depth), name=f"read_address{i}", reset_less=True)
            element = Signal(lane_bits, name=f"element{i}", reset_less=True)
            place = Signal(lane_bits + 1, name=f"place{i}")
            m.d.comb += place.eq(position[:lane_bits] + Mux(first, offset, turn))
            m.d.sync += [
                element.eq(place),
                read_address.eq(position[lane_bits:] + (place[-1] & ~Mux(first, across, wraps))),
            ]
            m.submodules[f"bank{i}"] = bank = memory.Memory(
                shape=unsigned(config.bus_width), depth=config.buffer_depth, init=[]
            )
            write, read = bank.write_port(granularity=bits), bank.read_port()
            m.d.comb += [
                write.en.eq(Mux(hit[i], chosen.rotate_left(i % elements), 0)),
                write.addr.eq(address),
                write.data.eq(word),
                read.en.eq(reading[i]),
                read.addr.eq(read_address),
            ]
            lane_read = Signal(lane_bits, name=f"lane_read{i}", reset_less=True)
            code = Signal(bits, name=f"code{i}", reset_less=True)
            m.d.sync += lane_read.eq(element)
            if config.compact:
                # An element is taken first, for it is narrower.
                taken = Signal(bits, name=f"taken{i}", reset_less=True)
                m.d.sync += [taken.eq(read.data.word_select(lane_read, bits)), code.eq(taken)]
            else:
                # A memory block's output is late in its clock: the word is registered before an element is taken.
                word_read = Signal(config.bus_width, name=f"word{i}", reset_less=True)
                lane = Signal(lane_bits, name=f"lane{i}", reset_less=True)
                m.d.sync += [
                    lane.eq(lane_read),
                    word_read.eq(read.data),
                    code.eq(word_read.word_select(lane, bits)),
                ]
            m.d.comb += self.codes[i].eq(code)

            position, offset, stride, across = here, next_turn, turns, wraps
            first = begins = beginning[i]
        return m

    def _write_stage(self, m: Module, elements: int) -> tuple[Signal, Signal, Signal, Signal]:
        """Register which banks a beat is for, which elements of bank 0's word it fills, the address and the word.

        Along K it is one bank and all elements. Across K, element i of a line lies at position offset + i, counted
        from the line's first bus word: beat j holds the positions of banks j·E - offset to j·E - offset + E - 1.
        """
        config, beat, lanes = self._config, self.beat, self._lanes
        lane_bits = ceil_log2(elements)
        hit = Signal(lanes)
        chosen = Signal(elements, reset_less=True)
        address = Signal(ceil_log2(config.buffer_depth), reset_less=True)
        word = Signal(config.bus_width, reset_less=True)

        offset, lane = beat.offset[:lane_bits], beat.lane[:lane_bits]
        positions = Cat(*((beat.beat == j).replicate(elements) for j in range(-(-lanes // elements) + 1)))
        rotated: Value = beat.data
        for bit in range(lane_bits):
            rotated = Mux(beat.rotation[bit], rotated.rotate_left(8 * self._bytes << bit), rotated)

        m.d.sync += hit.eq(0)
        taken = beat.valid & (beat.operand == self._operand)
        with m.If(taken):
            m.d.sync += hit.eq(Mux(beat.across, positions >> offset, 1 << beat.bank))
        # In every clock, the registers of A and B are the same ones, of which a small part then has only one set.
        with m.If(Const(1) if config.compact else taken):
            m.d.sync += [
                chosen.eq(Mux(beat.across, 1 << lane, (1 << elements) - 1)),
                address.eq(beat.word),
                word.eq(rotated),
            ]
        return hit, chosen, address, word
