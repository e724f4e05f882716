"""Embeddings that a model shares with its head, and of which a file trained one alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ... import catalog
from ...consumers.config.stated import CONFIG, read_json
from ...core.planning import Planning
from ...core.tensor import LazyTensor
from ...errors import PlanError
from .contents import Contents
from .places import Whole
from .placing import Placement

__all__ = ["refuse_untied"]

_TIED = "tie_word_embeddings"
_ADAPTER = "adapter_config.json"


def refuse_untied(
    contents: Contents, placed: Iterable[Placement], table: Mapping[str, LazyTensor], planning: Planning
) -> None:
    """Stop where an embedding would be replaced of which the head is another name.

    PEFT trains a copy of it (``modules_to_save``), and the head stays what it was, unless
    ``ensure_weight_tying`` says otherwise. A file that ties the two has no place for that.

    Args:
        placed: the changes of the file.
        table: tensors of the model.

    Raises:
        PlanError: it is so.
    """
    whole = [placement.name for placement in placed if isinstance(placement.added.delta, Whole)]
    if (
        not whole
        or not _ties(planning)
        or any(name.split(".")[-2:] == ["lm_head", "weight"] for name in table)
    ):
        return
    side = contents.path if contents.path.is_dir() else contents.path.parent
    if (read_json(side / _ADAPTER) or {}).get("ensure_weight_tying") is True:
        return
    family = catalog.generic_family()
    for name in whole:
        if family.is_embedding(name, table[name].spec.shape):
            raise PlanError(
                f"is replaced by the one in {contents.path.name}, and {CONFIG} ties the head to it"
                f" ({_TIED}), which was not trained with it: the head would change too",
                tensor=name,
                hint=f"merge it with PEFT, which keeps both; or, if the head is meant too, put {_TIED}: false"
                " and the head's own weights into the model",
            )


def _ties(planning: Planning) -> bool:
    for path in planning.side_files:
        if path.name == CONFIG:
            config = read_json(path) or {}
            parts = (one for key, one in config.items() if key.endswith("_config") and isinstance(one, dict))
            return any(one.get(_TIED) is True for one in (config, *parts))
    return False
