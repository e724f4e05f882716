"""The blocks of ggml, in both directions: bytes as in ``ggml-common.h``, values as in its reference code."""
