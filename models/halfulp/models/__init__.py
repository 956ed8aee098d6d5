"""Networks, data, the training loop and experiments."""
