"""Loads ``formats/profiles/*.yaml``: what metadata a consumer of checkpoints asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..core.records import dataclass
from ..errors import RecipeError
from . import strict
from .folders import find, listing

__all__ = ["Key", "Profile", "profile", "profiles"]

NEEDS = ("required", "required-with-metadata", "recommended", "optional")
_JSON = ("object", "array", "any")


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of one metadata key.

    Attributes:
        name: the key.
        need: one of :data:`NEEDS`; ``required-with-metadata`` when the file has any metadata at all.
        why: what it is for, in words.
        json: what the value must parse as, if it is JSON.
        fields: dotted paths that must be in that JSON object.
        one_of: allowed values; any when empty.
        matches: a regular expression for the whole value.
    """

    name: str
    need: str
    why: str
    json: str | None = None
    fields: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    matches: re.Pattern[str] | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """One consumer's demands.

    Attributes:
        name: e.g. ``"nunchaku"``.
        title: in words.
        keys: by name.
        pipelines: hub repositories by the short name that its configuration files use for them.
        model_classes: the consumer's class by the class that ``config.json`` names.
        default_class: the consumer's class when ``config.json`` names none.
    """

    name: str
    title: str
    keys: Mapping[str, Key]
    pipelines: Mapping[str, str]
    model_classes: Mapping[str, str]
    default_class: str | None


def profiles() -> list[str]:
    """Names of all profiles, sorted."""
    return list(listing("profiles"))


def profile(name: str) -> Profile:
    """Load one profile.

    Raises:
        RecipeError: no such profile, or a mistake in its file.
    """
    path = find("profiles", name)
    top = strict.catalog_file(path, "profile")
    title = top.need("title").string()
    keys = {key: _key(key, child) for key, child in top.need("keys").mapping().items()}
    pipelines = top.get("pipelines", _texts, {})
    classes = top.get("model_classes", _texts, {})
    default = top.get("default_class", strict.Node.string, None)
    top.reject_unknown()
    return Profile(name, title, keys, pipelines, classes, default)


def _key(name: str, node: strict.Node) -> Key:
    top = node.mapping()
    json = top.get("json", lambda child: child.choice(_JSON), None)
    fields = tuple(top.get("fields", strict.Node.strings, ()))
    if fields and json != "object":
        raise node.error("'fields' needs json: object")
    key = Key(
        name,
        top.need("need").choice(NEEDS),
        top.need("why").string(),
        json,
        fields,
        tuple(top.get("one_of", strict.Node.strings, ())),
        top.get("matches", _expression, None),
    )
    top.reject_unknown()
    return key


def _expression(node: strict.Node) -> re.Pattern[str]:
    try:
        return re.compile(node.string())
    except re.error as error:
        raise RecipeError(f"bad regular expression: {error}", file=f"{node.file}:{node.line}") from None


def _texts(node: strict.Node) -> dict[str, str]:
    return {key: child.string() for key, child in node.mapping().items()}
