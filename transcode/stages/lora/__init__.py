"""Merging adapters into the weights that they were trained for."""
