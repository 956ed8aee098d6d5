"""RTL simulators, virtual board, cocotb benches, fast emulator and cycle model."""
