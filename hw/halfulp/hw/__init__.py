"""The accelerator in Amaranth, its configuration and its register map."""

from halfulp.hw.sources import note_sources

# All that hardware is made from, before any of it is imported.
for _package in ("halfulp.numerics", "halfulp.hw"):
    note_sources(_package)
