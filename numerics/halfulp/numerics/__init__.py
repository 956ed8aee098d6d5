"""Formats, rounding, random bits, accumulators and the golden GEMM, on NumPy alone."""
