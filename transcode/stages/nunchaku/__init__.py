"""Packing DeepCompressor checkpoints as nunchaku reads them."""
