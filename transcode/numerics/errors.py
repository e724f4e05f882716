"""What goes wrong with values: plain exceptions, to which a transform adds the names that a user knows."""

from __future__ import annotations

__all__ = ["NonFinite", "Overflow", "ValueProblem"]


class ValueProblem(ValueError):
    """One value of a tensor cannot be converted.

    Args:
        row: row among those that were handed in.
        column: position in that row.
        value: the offending value.
    """

    def __init__(self, row: int, column: int, value: float) -> None:
        self.row = row
        self.column = column
        self.value = value
        super().__init__(f"row {row}, column {column}: {value}")


class NonFinite(ValueProblem):
    """NaN or infinity (or a float64 beyond float32) in a tensor that is to be quantized."""


class Overflow(ValueProblem):
    """A finite value is too large for the target dtype."""
