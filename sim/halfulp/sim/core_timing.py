"""How a GEMM runs through a core, clock by clock: timing diagrams from the bench's wave file."""

from __future__ import annotations

from pathlib import Path

from halfulp.sim.timing_diagram import Wave, draw_waves, read_traces, wave_json

__all__ = ["TIMING_DIAGRAMS", "core_timing"]

TOP = "halfulp_core"
CLOCK = f"{TOP}.aclk"
CORE = f"{TOP}.core"

TIMING_DIAGRAMS = ("start", "drain")
"""Names of the diagrams that `core_timing` draws."""

COMMAND = (
    Wave(f"{CORE}.started", "start", "command"),
    Wave(f"{CORE}.descriptor__valid", "queued", "command"),
)
READS = (
    Wave(f"{TOP}.m_axi_arvalid", "arvalid", "reads"),
    Wave(f"{TOP}.m_axi_arready", "arready", "reads"),
    Wave(f"{TOP}.m_axi_arlen", "arlen", "reads"),
    Wave(f"{TOP}.m_axi_rvalid", "rvalid", "reads"),
    Wave(f"{TOP}.m_axi_rlast", "rlast", "reads"),
)
FEED = (
    Wave(f"{CORE}.feed__valid", "valid", "array feed"),
    Wave(f"{CORE}.feed__first", "first", "array feed"),
    Wave(f"{CORE}.feed__last", "last", "array feed"),
)
DRAIN = (
    Wave(f"{CORE}.shift", "shift", "drain"),
    Wave(f"{CORE}.groups__valid", "rounded", "drain"),
)
WRITES = (
    Wave(f"{TOP}.m_axi_awvalid", "awvalid", "writes"),
    Wave(f"{TOP}.m_axi_awready", "awready", "writes"),
    Wave(f"{TOP}.m_axi_wvalid", "wvalid", "writes"),
    Wave(f"{TOP}.m_axi_wready", "wready", "writes"),
    Wave(f"{TOP}.m_axi_wlast", "wlast", "writes"),
    Wave(f"{TOP}.m_axi_bvalid", "bvalid", "writes"),
    Wave(f"{TOP}.interrupt", "interrupt", "writes"),
)


def core_timing(waves: Path) -> dict[str, str]:
    """Diagrams of the first GEMM in a wave file of `halfulp.sim.cosim.run_bench`.

    Returns
    -------
    SVG texts by name: ``start``, from the start bit until the array is fed; ``drain``, from the first tile's last step
    until its results are written.
    """
    every = (*COMMAND, *READS, *FEED, *DRAIN, *WRITES)
    traces = read_traces(waves, [wave.signal for wave in every], clock=CLOCK)
    begin = traces[f"{CORE}.started"].first_rise()
    fed = traces[f"{CORE}.feed__valid"].first_rise(begin)
    last = traces[f"{CORE}.feed__last"].first_rise(fed)
    answered = traces[f"{TOP}.m_axi_bvalid"].first_rise(last)
    windows = {
        TIMING_DIAGRAMS[0]: ("From the start bit to the array", (*COMMAND, *READS, *FEED), begin - 1, fed + 6),
        TIMING_DIAGRAMS[1]: (
            "From a tile's last step to its write response",
            (*FEED, *DRAIN, *WRITES),
            last - 3,
            answered + 3,
        ),
    }
    return {
        name: draw_waves(wave_json(traces, lines, start=start, stop=stop, title=title))
        for name, (title, lines, start, stop) in windows.items()
    }
