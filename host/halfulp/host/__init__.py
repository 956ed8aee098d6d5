"""Devices, driver, PyTorch ops, recipes and optimisers."""
