"""GGUF, the format of ggml: llama.cpp, stable-diffusion.cpp, ComfyUI-GGUF (``ggml/docs/gguf.md``)."""
