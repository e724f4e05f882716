"""Where the tensors lie in a checkpoint's nested dicts."""

from __future__ import annotations

import re
from collections.abc import Callable
from os import PathLike
from typing import Any

from ..errors import FormatError

__all__ = ["KNOWN", "Leaf", "find_root", "flatten", "transform"]

KNOWN = (
    "state_dict", "model_state_dict", "model", "module", "generator_ema", "generator", "ema",
    "ema_state_dict", "model_ema", "params_ema", "params", "net", "weights", "transformer", "unet",
)  # fmt: skip
"""Keys under which training programs keep a state dict."""

_TRAINING = re.compile(
    r"(.*optim\w*|.*sched\w*|lr_\w*|\w*scaler|amp|rng\w*|random\w*|loops|callbacks)$", re.I
)
"""Keys of a training program's state, whose tensors are no weights."""

_DEEPEST = 64
_MOST = 1_000_000

File = str | PathLike[str]


class Leaf:
    """What stands for a tensor in the nested dicts."""

    __slots__ = ()

    shape: tuple[int, ...]


def find_root(value: Any, root_key: str | None, file: File) -> tuple[dict[Any, Any], list[str]]:
    """The dict that holds the tensors, and notes on how it was found.

    A root is either named, or found: a dict with tensors of its own is one; else the known key, or the only
    key, that leads to tensors is followed.

    Raises:
        FormatError: there is none, or more than one.
    """
    if root_key is not None:
        return _named(value, root_key, file), []
    notes: list[str] = []
    path: list[str] = []
    tensors = _Tensors(file)
    while True:
        if not isinstance(value, dict):
            raise FormatError(
                f"holds an object of type {type(value).__name__}, not a dict of tensors", file=file
            )
        own = [key for key, item in value.items() if isinstance(item, Leaf)]
        inner = [key for key, item in value.items() if isinstance(item, dict) and tensors.within(item)]
        training = [key for key in inner if isinstance(key, str) and _TRAINING.match(key)]
        inner = [key for key in inner if key not in training]
        known = [key for key in inner if key in KNOWN]
        steps: list[Any] = []
        if known and not any(value[key].shape for key in own):
            steps, own = own, []  # scalars beside a state dict count steps
        if not own and not inner:
            where = f" under {'.'.join(path)!r}" if path else ""
            raise FormatError(f"holds no tensors{where}", file=file)
        follow = known or inner
        if not known and (own or (path and len(inner) > 1)):
            break  # the tensors themselves, or the parts of a module below a root that was clear
        if own or len(follow) > 1:
            choices = [".".join([*path, str(key)]) for key in follow]
            raise FormatError(
                f"its tensors may lie under {_listed(choices)}" + (" or at the top" if own else ""),
                file=file,
                hint=f"choose with --root-key, such as --root-key {choices[0]}, or . for all",
            )
        others = [key for key in (*inner, *training, *steps) if key != follow[0]]
        if others:
            notes.append(f"does not read the tensors under {_listed(others)}")
        path.append(str(follow[0]))
        value = value[follow[0]]
    if path:
        notes.insert(0, f"reads the tensors under {'.'.join(path)!r}")
    if training:
        notes.append(f"does not read the tensors under {_listed(training)}")
        value = {key: item for key, item in value.items() if key not in training}
    return value, notes


def _named(value: Any, root_key: str, file: File) -> dict[Any, Any]:
    rest = "" if root_key == "." else root_key
    while rest:
        if not isinstance(value, dict):
            break
        # A key may hold dots itself: the longest that fits is taken.
        names = sorted((key for key in value if isinstance(key, str)), key=len, reverse=True)
        key = next((key for key in names if rest == key or rest.startswith(f"{key}.")), None)
        if key is None:
            choices = [key for key, item in value.items() if isinstance(item, dict)]
            raise FormatError(
                f"has no root {root_key!r}", file=file,
                hint=f"it has {_listed(choices)}" if choices else "leave --root-key out",
            )  # fmt: skip
        value, rest = value[key], rest[len(key) + 1 :]
    if not isinstance(value, dict):
        raise FormatError(f"its root {root_key!r} is no dict of tensors", file=file)
    if not _Tensors(file).within(value):
        raise FormatError(f"holds no tensors under {root_key!r}", file=file)
    return value


def flatten(root: dict[Any, Any], file: File) -> tuple[dict[str, Leaf], list[str]]:
    """Tensors by name; nested dicts join their keys by dots. And notes on what is no tensor.

    Raises:
        FormatError: two tensors get the same name.
    """
    found: dict[str, Leaf] = {}
    left_out: list[str] = []
    count = 0

    def visit(value: dict[Any, Any], prefix: str, depth: int) -> None:
        nonlocal count
        for key, item in value.items():
            count += 1
            if depth > _DEEPEST or count > _MOST:
                raise FormatError("nests too deep or holds too many objects", file=file)
            name = f"{prefix}{key}"
            if isinstance(item, Leaf):
                if name in found:
                    raise FormatError("two tensors have this name", file=file, tensor=name)
                found[name] = item
            elif isinstance(item, dict):
                visit(item, f"{name}.", depth + 1)
            else:
                left_out.append(f"{name} ({type(item).__name__})")

    visit(root, "", 0)
    notes = [f"leaves out what is no tensor: {_listed(left_out)}"] if left_out else []
    return found, notes


def transform(value: Any, leaf: Callable[[str, Leaf], Any], file: File) -> Any:
    """The same nested containers with every leaf replaced, each container once however often it occurs.

    Raises:
        FormatError: a container holds itself, or they nest too deep.
    """
    done: dict[int, Any] = {}

    def visit(item: Any, name: str, depth: int) -> Any:
        if isinstance(item, Leaf):
            return leaf(name, item)
        if not isinstance(item, (dict, list, tuple)):
            return item
        if id(item) in done:
            return done[id(item)]
        if depth > _DEEPEST:
            raise FormatError("nests too deep", file=file)
        join = f"{name}." if name else ""
        if isinstance(item, dict):
            made: Any = {key: visit(inner, f"{join}{key}", depth + 1) for key, inner in item.items()}
        else:
            made = type(item)(visit(inner, f"{join}{i}", depth + 1) for i, inner in enumerate(item))
        done[id(item)] = made
        return made

    return visit(value, "", 0)


class _Tensors:
    """Whether a dict holds tensors at any depth; remembers, as dicts may occur many times."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._known: dict[int, bool] = {}

    def within(self, value: dict[Any, Any], depth: int = 0) -> bool:
        if depth > _DEEPEST:
            raise FormatError("nests too deep", file=self._file)
        known = self._known.get(id(value))
        if known is None:
            known = self._known[id(value)] = any(
                isinstance(item, Leaf) or (isinstance(item, dict) and self.within(item, depth + 1))
                for item in value.values()
            )
        return known


def _listed(names: list[Any]) -> str:
    shown = ", ".join(str(name)[:80] for name in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
