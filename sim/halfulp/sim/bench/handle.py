"""The core as cocotb's handle of the top module: the ports that the bench names itself, with their types."""

from __future__ import annotations

from cocotb.handle import HierarchyObject, LogicObject

__all__ = ["CoreHandle"]


class CoreHandle(HierarchyObject):
    """For type checkers: cocotb makes the handles. The ports of both buses are found by their prefix."""

    aclk: LogicObject
    aresetn: LogicObject
    interrupt: LogicObject
