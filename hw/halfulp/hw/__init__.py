"""The accelerator in Amaranth, its configuration and its register map."""
