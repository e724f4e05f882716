"""Choosing tensors and encoding them in a scheme."""
