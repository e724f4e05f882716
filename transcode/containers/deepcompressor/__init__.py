"""DeepCompressor's checkpoint folders."""
