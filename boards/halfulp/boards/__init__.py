"""Board descriptions, platforms and bitstream builds."""

from halfulp.hw.sources import note_sources

note_sources("halfulp.boards")
