"""Facts, lazy tensors, the flow that joins transforms, plans and their execution: no files, no formats."""
