"""Where the tensors lie in a checkpoint's nested dicts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import Any

from ...errors import FormatError
from ...voice import called
from .placeholder import Placeholder, kind_of

__all__ = [
    "ASK",
    "KNOWN",
    "Bytes",
    "Leaf",
    "find_root",
    "flatten",
    "holds_tensors",
    "tensor_of",
    "transform",
]

KNOWN = (
    "state_dict", "model_state_dict", "model", "module", "generator_ema", "generator", "ema",
    "ema_state_dict", "model_ema", "params_ema", "params", "net", "weights", "transformer", "unet",
)  # fmt: skip
"""Keys under which training programs keep a state dict."""

_TRAINING = re.compile(
    r"(.*optim\w*|.*sched\w*|lr_\w*|\w*scaler|amp|rng\w*|random\w*|loops|callbacks)$", re.I
)
"""Keys of a training program's state, whose tensors are no weights."""

ASK = "ask its authors for a safetensors file, or a state dict of plain tensors"
"""What to do about a file that only a program that runs its code could read: not that."""

_REBUILT = re.compile(r"torch\._(utils|tensor)\._rebuild_|.*Tensor$")
"""What makes tensors of kinds that are not known, and their classes."""
_JOIN = "it is a shard of a parallel run: join the ranks with the tool of the program that saved them"
_SHARDED = re.compile(r"torch\.distributed\..*Tensor$")

_SHOWN = 8
_DEEPEST = 64
_MOST = 1_000_000
_LONGEST_NAME = 4096
_MOST_TEXT = 1 << 27
"""Characters of all names: keys that many dicts share are written out in each of their names."""

File = str | PathLike[str]


class Bytes:
    """What has bytes of tensors."""

    __slots__ = ()


class Leaf(Bytes):
    """What stands for a tensor in the nested dicts."""

    __slots__ = ()

    shape: tuple[int, ...]


def tensor_of(item: object) -> Leaf | None:
    """What an object of a pickle is as a tensor: itself, or the numbers of an array; None for others."""
    return item if isinstance(item, Leaf) else getattr(item, "tensor", None)


def find_root(value: object, root_key: str | None, file: File) -> tuple[dict[object, object], list[str]]:
    """The dict that holds the tensors, and notes on how it was found.

    A root is either named, or found: a dict with tensors of its own is one; else the known key, or the only
    key, that leads to tensors is followed. Arrays count as tensors only where there are no others: beside a
    state dict they are states of random numbers and losses.

    Raises:
        FormatError: there is none, or more than one, or the tensors are inside of objects that are not known.
    """
    if root_key is not None:
        return _named(value, root_key, file), []
    notes: list[str] = []
    path: list[str] = []
    tensors = _Tensors(file)
    clean: set[int] = set()
    if (
        isinstance(value, dict)
        and not tensors.within(value)
        and not any(holds_tensors(item, clean) for item in value.values())
    ):
        tensors = _Tensors(file, arrays=True)
    while True:
        if not isinstance(value, dict):
            raise FormatError(
                f"holds an object of type {kind_of(value)}, not a dict of tensors",
                file=file,
                hint=ASK if isinstance(value, Placeholder) else None,
            )
        own = [key for key, item in value.items() if tensors.is_tensor(item)]
        inner = [key for key, item in value.items() if isinstance(item, dict) and tensors.within(item)]
        objects = [key for key, item in value.items() if key not in own and holds_tensors(item, clean)]
        training = [key for key in (*inner, *objects) if _is_training(key)]
        inner = [key for key in inner if key not in training]
        objects = [key for key in objects if key not in training]
        known = [key for key in inner if key in KNOWN]
        steps: list[object] = []
        if known and all(_is_training(key) or tensors.scalar(value[key]) for key in own):
            steps, own = own, []  # scalars beside a state dict count steps
        if not own and not inner:
            if (inside := _inside_object(value)) is not None:
                raise FormatError(f"its tensors are inside of {inside}", file=file, hint=ASK)
            where = f" under {'.'.join(path)!r}" if path else ""
            raise FormatError(f"holds no tensors{where}", file=file)
        follow = known or inner
        rivals = [key for key in objects if not known or key in KNOWN]
        if not known and (own or (path and len(inner) > 1)):
            break  # the tensors themselves, or the parts of a module below a root that was clear
        if own or len(follow) + len(rivals) > 1:
            choices = [".".join([*path, str(key)]) for key in follow]
            shown = choices + [f"{key} (an object of class {value[key].name})" for key in rivals]
            raise FormatError(
                f"its tensors may lie under {_listed(shown)}" + (" or at the top" if own else ""),
                file=file,
                hint=f"choose with {called('root_key')}, such as"
                f" {called('root_key', choices[0])}, or . for all",
            )
        others = [key for key in (*inner, *objects, *training, *steps) if key != follow[0]]
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


def _is_training(key: object) -> bool:
    return isinstance(key, str) and _TRAINING.match(key) is not None


def _spelled(key: object) -> str:
    if type(key) is tuple:
        if len(key) > 16:
            return f"a tuple of {len(key)}"
        return f"({', '.join(_spelled(item)[:200] for item in key)})"
    return key.name if isinstance(key, Placeholder) else str(key)


class _Names:
    """Joins names of keys, and counts what they take."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._left = _MOST_TEXT

    def __call__(self, prefix: str, key: object) -> str:
        name = f"{prefix}.{_spelled(key)}" if prefix else _spelled(key)
        self._left -= len(name)
        if len(name) > _LONGEST_NAME or self._left < 0:
            raise FormatError(
                f"has names of more than {_LONGEST_NAME} characters, or {_MOST_TEXT} in all", file=self._file
            )
        return name


def _named(value: object, root_key: str, file: File) -> dict[object, object]:
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
                hint=f"it has {_listed(choices)}" if choices else f"leave {called('root_key')} out",
            )  # fmt: skip
        value, rest = value[key], rest[len(key) + 1 :]
    if not isinstance(value, dict):
        raise FormatError(f"its root {root_key!r} is no dict of tensors", file=file)
    if not _Tensors(file, arrays=True).within(value):
        if (inside := _inside_object(value)) is not None:
            raise FormatError(f"its tensors under {root_key!r} are inside of {inside}", file=file, hint=ASK)
        raise FormatError(f"holds no tensors under {root_key!r}", file=file)
    return value


def flatten(root: dict[object, object], file: File) -> tuple[dict[str, Leaf], list[str]]:
    """Tensors by name; nested dicts join their keys by dots. And notes on what is no tensor.

    Raises:
        FormatError: two tensors get the same name.
    """
    leaves: dict[str, Leaf] = {}
    left_out: list[str] = []
    count = 0
    join = _Names(file)
    clean: set[int] = set()

    def visit(value: dict[object, object], prefix: str, depth: int) -> None:
        nonlocal count
        for key, item in value.items():
            count += 1
            if depth > _DEEPEST or count > _MOST:
                raise FormatError("nests too deep or holds too many objects", file=file)
            name = join(prefix, key)
            leaf = tensor_of(item)
            if leaf is not None:
                if name in leaves:
                    raise FormatError("two tensors have this name", file=file, tensor=name)
                leaves[name] = leaf
            elif isinstance(item, dict):
                visit(item, name, depth + 1)
            elif isinstance(item, Placeholder) and _is_tensor(name, item, clean):
                raise FormatError(
                    f"is an object of class {item.name}, not a plain tensor", file=file, tensor=name,
                    hint=_JOIN if _SHARDED.match(item.name) else ASK,
                )  # fmt: skip
            else:
                # Of many, no more is said than their number.
                left_out.append(f"{name} ({kind_of(item)})" if len(left_out) < _SHOWN else "")

    visit(root, "", 0)
    notes = [f"leaves out what is no tensor: {_listed(left_out)}"] if left_out else []
    return leaves, notes


def _inside_object(
    value: dict[object, object], prefix: str = "", depth: int = 0, clean: set[int] | None = None
) -> str | None:
    """The first object in nested dicts that holds tensors, in words; ``clean`` has those without."""
    clean = set() if clean is None else clean
    clean.add(id(value))  # a dict that is met again holds no other
    for key, item in value.items():
        name = f"{prefix}{_spelled(key)}"[:_LONGEST_NAME]
        if isinstance(item, Placeholder) and holds_tensors(item, clean):
            return f"{name}, an object of class {item.name}"
        if isinstance(item, dict) and depth < 8 and id(item) not in clean:
            described = _inside_object(item, f"{name}.", depth + 1, clean)
            if described is not None:
                return described
    return None


def _is_tensor(name: str, item: Placeholder, clean: set[int]) -> bool:
    """Whether an unknown object stands for a tensor, or has some."""
    return name.endswith((".weight", ".bias")) or _is_strange(item) or holds_tensors(item, clean)


def _is_strange(item: object) -> bool:
    """Whether an object, not only the name of its class, is a tensor of a class that is not known."""
    return isinstance(item, Placeholder) and item.held is not None and _REBUILT.match(item.name) is not None


def holds_tensors(item: object, clean: set[int] | None = None) -> bool:
    """Whether an unknown object holds tensors, at any depth.

    Args:
        clean: ids of what holds none, which is not looked into again; what is found to hold none is added.
    """
    if not isinstance(item, Placeholder):
        return False
    clean = set() if clean is None else clean
    todo: list[Any] = [item]
    seen = {id(item)}
    while todo:
        inner = todo.pop()
        if isinstance(inner, Bytes):
            if not isinstance(inner, Leaf) or inner.shape:
                return True  # a scalar is a score, or counts steps
            continue
        if isinstance(inner, Placeholder):
            items: Iterable[object] = inner.held or ()
        elif isinstance(inner, dict):
            items = (*inner.keys(), *inner.values())
        else:
            items = inner
        for child in items:
            if isinstance(child, (Bytes, Placeholder, dict, list, tuple, set)) and not (
                id(child) in seen or id(child) in clean
            ):
                seen.add(id(child))
                todo.append(child)
    clean |= seen
    return False


def transform(value: object, leaf: Callable[[str, Leaf], Any], file: File) -> Any:
    """The same nested containers with every leaf replaced, each container once however often it occurs.

    Raises:
        FormatError: a container holds itself, or they nest too deep.
    """
    done: dict[int, object] = {}
    names = _Names(file)

    def visit(item: object, name: str, depth: int) -> Any:
        tensor = tensor_of(item)
        if tensor is not None:
            return leaf(name, tensor)
        if not isinstance(item, (dict, list, tuple)):
            return item
        if id(item) in done:
            return done[id(item)]
        if depth > _DEEPEST:
            raise FormatError("nests too deep", file=file)
        if isinstance(item, dict):
            result: object = {key: visit(inner, names(name, key), depth + 1) for key, inner in item.items()}
        else:
            result = type(item)(visit(inner, names(name, i), depth + 1) for i, inner in enumerate(item))
        done[id(item)] = result
        return result

    return visit(value, "", 0)


class _Tensors:
    """Whether a dict holds tensors at any depth; remembers, as dicts may occur many times."""

    def __init__(self, file: File, *, arrays: bool = False) -> None:
        self._file = file
        self._arrays = arrays
        self._known: dict[int, bool] = {}

    def is_tensor(self, item: object) -> bool:
        """Whether it is a tensor itself, be it of a kind that cannot be read."""
        return isinstance(item, Leaf) or _is_strange(item) or (self._arrays and tensor_of(item) is not None)

    def scalar(self, item: object) -> bool:
        """Whether it is a single number."""
        leaf = tensor_of(item)
        return leaf is not None and not leaf.shape

    def within(self, value: dict[object, object], depth: int = 0) -> bool:
        if depth > _DEEPEST:
            raise FormatError("nests too deep", file=self._file)
        known = self._known.get(id(value))
        if known is None:
            known = self._known[id(value)] = any(
                self.is_tensor(item) or (isinstance(item, dict) and self.within(item, depth + 1))
                for item in value.values()
            )
        return known


def _listed(names: Sequence[object]) -> str:
    shown = ", ".join(_spelled(name)[:80] for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
