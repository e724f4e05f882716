"""Facts, expressions, lazy tensors, and the flow that joins stages: no files, no formats."""
