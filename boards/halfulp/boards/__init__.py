"""Board descriptions, platforms and bitstream builds."""
