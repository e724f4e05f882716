"""What config.json and its like say of how tensors are quantized: one module for each dialect."""
