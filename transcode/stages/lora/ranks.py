"""A pair without the ranks that add nothing: of a joined module's blocks, each part has its own."""

from __future__ import annotations

import numpy as np

from .picked import Some, picked
from .sorting import Roles

__all__ = ["of_ranks", "used"]


def used(roles: Roles) -> list[int]:
    """The ranks of a pair that add anything: columns of up that are not all zeros; all of one of DoRA, whose
    magnitudes count without a product, and of one with a core.

    Args:
        roles: ``up`` ``[O, r]`` and ``down`` ``[r, I]``; it is read.
    """
    up = roles["up"]
    if roles.keys() - {"up", "down"}:
        return [*range(roles["down"].spec.shape[0])]
    return np.flatnonzero((np.asarray(up.numpy()) != 0).any(axis=0)).tolist()


def of_ranks(roles: Roles, ranks: list[int], alpha: float) -> tuple[Roles, float]:
    """The pair of some ranks alone, and the alpha by which it counts as often; the pair itself where no alpha
    does.
    """
    rank = roles["down"].spec.shape[0]
    factor = alpha / rank
    fewer = factor * len(ranks)
    held = np.float32(float(np.float32(fewer)) / len(ranks)) == np.float32(factor)
    if len(ranks) == rank or fewer / len(ranks) != factor or not held:
        return roles, alpha
    some = Some(tuple(ranks))
    up, down = picked(roles["up"], columns=some), picked(roles["down"], rows=some)
    return {**roles, "up": up, "down": down}, fewer
