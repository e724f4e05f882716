"""Arithmetic and conditions over the values of a config, as the tables of ``formats/models`` write them."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Expression"]

_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}

_COMPARED: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda one, many: one in (many or ()),
    ast.NotIn: lambda one, many: one not in (many or ()),
}

_OTHERS = (ast.Expression, ast.Constant, ast.Name, ast.Load, ast.BinOp, ast.BoolOp, ast.And, ast.Or,
           ast.UnaryOp, ast.Not, ast.Compare, ast.Subscript)  # fmt: skip


class Expression:
    """Names of a config's keys, whole numbers, texts, ``+ - * // %``, comparisons, ``in``, ``and or not`` and
    ``a[0]``, with Python's precedence.

    Attributes:
        text: as it stands in the table.
        names: keys that it asks for.
    """

    def __init__(self, text: str) -> None:
        """Raises ValueError for a text that is no such expression."""
        try:
            tree = ast.parse(text, mode="eval")
        except SyntaxError:
            raise ValueError(f"{text!r} is no expression") from None
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare) and len(node.ops) > 1:
                raise ValueError(f"{text!r}: a chain of comparisons is not understood here")
            if not isinstance(node, (*_OTHERS, *_BINARY, *_COMPARED)):
                raise ValueError(f"{text!r}: {type(node).__name__} is not understood here")
        self.text = text
        self.names = frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
        self._tree = tree.body

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def of(self, values: Mapping[str, Any]) -> Any:
        """Its value where the names mean these.

        Raises:
            ArithmeticError, LookupError, TypeError: these values allow none.
        """
        return _value(self._tree, values)


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return values[node.id]
        case ast.BinOp():
            return _BINARY[type(node.op)](_value(node.left, values), _value(node.right, values))
        case ast.UnaryOp():
            return not _value(node.operand, values)
        case ast.BoolOp():
            both = all if isinstance(node.op, ast.And) else any
            return both(_value(one, values) for one in node.values)
        case ast.Subscript():
            return _value(node.value, values)[_value(node.slice, values)]
        case ast.Compare(left=left, ops=[comparison], comparators=[right]):
            return _COMPARED[type(comparison)](_value(left, values), _value(right, values))
    raise TypeError(f"{ast.unparse(node)} is not understood here")
