"""A register for an address that steps on every clock, of which the upper half takes its carry a clock late."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Signal, Value

__all__ = ["LongAddress"]


class LongAddress:
    """An address in two halves, so that no carry runs through all of its bits in one clock.

    In every clock exactly one of `settle`, `become` and `add` holds: `settle` first, as what holds by default.

    Parameters
    ----------
    bits
        Width of the address.
    name
        Of its signals: `name`_low, `name`_high and `name`_carry.

    Attributes
    ----------
    value
        The address as it is, in every clock.
    """

    def __init__(self, bits: int, name: str) -> None:
        low = (bits + 1) // 2
        self._low = Signal(low, name=f"{name}_low", reset_less=True)
        self._high = Signal(bits - low, name=f"{name}_high", reset_less=True)
        self._carry = Signal(name=f"{name}_carry", reset_less=True)
        self.value: Value = Cat(self._low, self._settled)

    @property
    def _settled(self) -> Value:
        return (self._high + self._carry)[: len(self._high)]

    def settle(self) -> list[Any]:
        """Stay as it is."""
        return [self._high.eq(self._settled), self._carry.eq(0)]

    def become(self, address: LongAddress | Value) -> list[Any]:
        """Hold another address from the next clock on."""
        if isinstance(address, LongAddress):
            return [self._low.eq(address._low), self._high.eq(address._high), self._carry.eq(address._carry)]
        low = len(self._low)
        return [self._low.eq(address[:low]), self._high.eq(address[low:]), self._carry.eq(0)]

    def add(self, step: Value | int) -> list[Any]:
        """Be so many bytes (words) further from the next clock on; nothing is kept beyond the address's bits."""
        step, low = Value.cast(step), len(self._low)
        return [
            Cat(self._low, self._carry).eq(self._low + step[:low]),
            self._high.eq(self._high + step[low:] + self._carry),
        ]
