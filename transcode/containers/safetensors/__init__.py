"""Safetensors: a header of JSON, then the bytes of the tensors."""
