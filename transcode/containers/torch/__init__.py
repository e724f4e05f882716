"""PyTorch's files: pickles, read without torch and without running code."""
