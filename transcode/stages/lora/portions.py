"""Rows of an adapter that is no pair: of LoHa, LoKr, IA3, GLoRA, OFT, of differences and magnitudes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from ...core.event import Event
from ...core.rows import Run, rows_of
from ...core.tensor import LazyTensor
from .sorting import Roles

__all__ = ["Matrix", "Portion", "Unportioned", "matrix_of", "on_input", "portion", "rows_taken"]

Portion = Sequence[tuple[int, int]]
"""Runs of rows, one below the other: where each begins, and how many."""

_SAID = 4


class Unportioned(Exception):
    """Why rows of an adapter are no such adapter, in words."""


class Matrix(NamedTuple):
    """Of the weight that an adapter is for; None where it tells nothing of it."""

    rows: int | None
    columns: int | None = None


def matrix_of(kinds: Mapping[str, Roles]) -> Matrix:
    """The size of the weight that the adapters of a module are for."""
    sizes = [_KINDS[kind].size(roles) for kind, roles in kinds.items() if kind in _KINDS]
    rows = next((size.rows for size in sizes if size.rows is not None), None)
    return Matrix(rows, next((size.columns for size in sizes if size.columns is not None), None))


def portion(kind: str, roles: Roles, some: Portion, rows: int, alpha: float) -> Roles:
    """The tensors of an adapter that does to some rows of a weight what another does to them.

    Args:
        kind: as ``formats/lora/names.yaml`` names it.
        roles: the tensors of the other.
        some: the rows.
        rows: of the other's weight.
        alpha: of the module; 0 where none is said.

    Raises:
        Unportioned: there is none.
    """
    if kind not in _KINDS:
        raise Unportioned("turns rows together")
    return _KINDS[kind].portion(roles, some, rows, alpha)


def rows_taken(tensor: LazyTensor, some: Portion) -> LazyTensor:
    """Some rows, along the first dimension, of a tensor."""
    each = tensor.spec.rows // max(tensor.spec.shape[0], 1)
    runs = [Run(tensor, begin * each, count * each) for begin, count in some]
    shape = (sum(count for _, count in some), *tensor.spec.shape[1:])
    said = " and ".join(f"{begin} to {begin + count - 1}" for begin, count in some[:_SAID])
    more = f" and {len(some) - _SAID} more runs" if len(some) > _SAID else ""
    return rows_of(tensor.name, shape, runs, did=Event("convert", f"rows {said}{more}"))


def _some(roles: Roles, some: Portion, *of: str) -> Roles:
    """The tensors, of some roles rows alone."""
    return {role: rows_taken(one, some) if role in of else one for role, one in roles.items()}


def _in_blocks(some: Portion, size: int, what: str) -> Portion:
    """Runs of blocks of rows. Raises Unportioned where a run begins or ends amidst one."""
    if any(begin % size or count % size for begin, count in some):
        raise Unportioned(f"has {what} of {size} rows, amidst which others begin")
    return [(begin // size, count // size) for begin, count in some]


def _loha(roles: Roles, some: Portion, rows: int, alpha: float) -> Roles:
    if roles.keys() & {"t1", "t2"}:
        raise Unportioned("has cores, so that its factors lie the other way")
    return _some(roles, some, "w1_a", "w2_a")


def _loha_size(roles: Roles) -> Matrix:
    if roles.keys() & {"t1", "t2"} or not roles.keys() >= {"w1_a", "w1_b"}:
        return Matrix(None)
    return Matrix(roles["w1_a"].spec.shape[0], roles["w1_b"].spec.shape[1])


def _sides(roles: Roles) -> list[tuple[int, int]]:
    """Rows and columns of the two sides of a LoKr."""
    sides = []
    for side in ("w1", "w2"):
        whole = roles.get(side)
        up, down = roles.get(f"{side}_a", whole), roles.get(f"{side}_b", whole)
        if up is None or down is None or "t2" in roles or len(up.spec.shape) < 2:
            return []
        sides.append((up.spec.shape[0], prod(down.spec.shape[1:])))
    return sides


def _lokr(roles: Roles, some: Portion, rows: int, alpha: float) -> Roles:
    sides = _sides(roles)
    if not sides:
        raise Unportioned("has a core, so that its factors lie the other way")
    blocks = _in_blocks(some, sides[1][0], "a second side")
    return _some(roles, blocks, "w1", "w1_a")


def _lokr_size(roles: Roles) -> Matrix:
    sides = _sides(roles)
    return Matrix(sides[0][0] * sides[1][0], sides[0][1] * sides[1][1]) if sides else Matrix(None)


def _glora(roles: Roles, some: Portion, rows: int, alpha: float) -> Roles:
    if roles["b1"].spec.shape[0] != rows:
        raise Unportioned("has its factors in the order of older files")
    return _some(roles, some, "b1")


def _glora_size(roles: Roles) -> Matrix:
    if not roles.keys() >= {"b1", "b2"}:
        return Matrix(None)
    return Matrix(roles["b1"].spec.shape[0], roles["b2"].spec.shape[1])


def on_input(roles: Roles) -> bool:
    return bool(np.asarray(roles["on_input"].numpy()).astype(np.float64).item())


def _ia3(roles: Roles, some: Portion, rows: int, alpha: float) -> Roles:
    return roles if on_input(roles) else _some(roles, some, "values")


def _ia3_size(roles: Roles) -> Matrix:
    if not roles.keys() >= {"on_input", "values"} or on_input(roles):
        return Matrix(None)
    return Matrix(roles["values"].spec.shape[0])


def _oft(roles: Roles, some: Portion, rows: int, alpha: float) -> Roles:
    blocks = roles.get("blocks")
    if blocks is None or len(blocks.spec.shape) != 3:
        raise Unportioned("turns rows of all of them together")
    if alpha:
        raise Unportioned("is constrained by the norm of all of them together")
    parts = _in_blocks(some, blocks.spec.shape[1], "blocks")
    return {**_some(roles, some, "rescale"), "blocks": rows_taken(blocks, parts)}


def _oft_size(roles: Roles) -> Matrix:
    blocks = roles.get("blocks")
    return Matrix(None if blocks is None else prod(blocks.spec.shape[:2]))


def _dora(roles: Roles, some: Portion, rows: int, alpha: float) -> Roles:
    scale = roles.get("scale")
    if scale is None or scale.spec.shape[0] != rows or scale.spec.numel != rows:
        raise Unportioned("has magnitudes of inputs, of which all rows together decide")
    return _some(roles, some, "scale")


class _Kind(NamedTuple):
    portion: Callable[[Roles, Portion, int, float], Roles]
    size: Callable[[Roles], Matrix]


_KINDS: Mapping[str, _Kind] = {
    "loha": _Kind(_loha, _loha_size),
    "lokr": _Kind(_lokr, _lokr_size),
    "glora": _Kind(_glora, _glora_size),
    "ia3": _Kind(_ia3, _ia3_size),
    "oft": _Kind(_oft, _oft_size),
    "dora": _Kind(_dora, lambda roles: Matrix(None)),
}
