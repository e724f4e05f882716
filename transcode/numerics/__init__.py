"""Arrays in, arrays out: float formats, scales, rounding, bit packing and index layouts.

Modules that hold compiled kernels (``lanes``, ``integer``, ``floats``, ...) import numba; import them where
they are used, never at the top of a module that every command loads.
"""

from .errors import NonFinite, Overflow

__all__ = ["NonFinite", "Overflow"]
