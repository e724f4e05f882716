"""What ``transcode schemes`` tells: options, their legal values, who takes a scheme and on what terms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import catalog, schemes
from ..catalog import DEFAULT, Convention, SchemeRule
from ..catalog.limits import Limit, plain
from ..core.constraint import Constraint
from .say import echo
from .table import heading, lines, paragraph, width

__all__ = ["described", "example", "show_all", "show_one"]

_LABELS = 18


def described(name: str) -> dict[str, Any]:
    """A scheme as JSON: what it is, options with defaults and legal values, conventions with their terms."""
    if name in schemes.CALIBRATED:
        encoding = schemes.CALIBRATED[name]
        about: dict[str, Any] = {"name": name, "about": f"{name}: {encoding.summary}", "options": {}}
        return {**about, "values": {}, "made_by": encoding.made_by, "conventions": _terms(name)}
    summary, defaults = schemes.describe(name)
    scheme = schemes.SCHEMES[name]
    return {
        "name": name,
        "about": summary,
        "options": defaults,
        "values": {option: _values(legal) for option, legal in scheme.options.items()},
        "only_with": {
            option: {other: value} for option, (other, value) in getattr(scheme, "only_with", {}).items()
        },
        "conventions": _terms(name),
        "example": example(name),
    }


def example(name: str) -> str:
    """A command that makes it, for the default convention if that takes it."""
    takers = catalog.takers(name)
    flag = "" if DEFAULT in takers or not takers else f" --convention {takers[0]}"
    more = " --importance sinq" if schemes.make(name).needs_weights else ""
    return f"transcode run SRC DST --scheme {name}{flag}{more}"


def show_all() -> None:
    """Every scheme in a few lines."""
    for name in schemes.SCHEMES:
        heading(f"{name}: {schemes.SCHEMES[name].summary}")
        _show_options(name)
        paragraph("taken by", _takers(name), labels=_LABELS)
        echo()
    heading("Of a calibration, not of weights alone (transcode nunchaku convert):")
    for name, scheme in schemes.CALIBRATED.items():
        paragraph(name, f"{scheme.summary}; for {_takers(name)}", labels=_LABELS)
    echo()
    for line in lines("`transcode schemes NAME` tells what each convention asks of one.", "", width()):
        echo(line)


def show_one(name: str) -> None:
    """A scheme, and what each convention asks of it."""
    catalog.check_scheme(name)
    if name in schemes.CALIBRATED:
        encoding = schemes.CALIBRATED[name]
        heading(f"{name}: {encoding.summary}")
        paragraph("how", encoding.made_by)
        paragraph("taken by", _takers(name))
        return
    heading(f"{name}: {schemes.SCHEMES[name].summary}")
    _show_options(name)
    for taker in catalog.takers(name):
        convention = catalog.convention(taker)
        echo()
        heading(f"--convention {taker}{' (the default)' if taker == DEFAULT else ''}: {convention.title}")
        for label, text in _spoken(convention, convention.scheme(name)):
            paragraph(label, text)
    echo()
    echo("Example:")
    echo(f"  {example(name)}")


def _takers(name: str) -> str:
    return ", ".join(f"{one} (the default)" if one == DEFAULT else one for one in catalog.takers(name))


def _show_options(name: str) -> None:
    scheme, defaults = schemes.SCHEMES[name], schemes.describe(name)[1]
    for option, legal in scheme.options.items():
        text = " | ".join(map(_word, legal.cases)) if legal.closed else legal.said
        if (other := getattr(scheme, "only_with", {}).get(option)) is not None:
            text += f"; with {other[0]}={_word(other[1])}"
        paragraph(option, f"{text}  [{_word(defaults[option])}]", labels=_LABELS)


def _values(legal: Constraint) -> dict[str, Any]:
    return {"said": legal.said, "among": [plain(one) for one in legal.cases], "closed": legal.closed}


def _terms(name: str) -> dict[str, dict[str, str]]:
    takers = map(catalog.convention, catalog.takers(name))
    return {one.name: dict(_joined(_spoken(one, one.scheme(name)))) for one in takers}


def _joined(spoken: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    lines: dict[str, list[str]] = {}
    for label, text in spoken:
        lines.setdefault(label, []).append(text)
    for label, texts in lines.items():
        yield label, "; ".join(texts)


def _spoken(convention: Convention, rule: SchemeRule) -> Iterator[tuple[str, str]]:
    """What a convention says of a scheme, line by line: a label and a text."""
    if rule.options:
        yield "sets", ", ".join(f"{option}={_word(value)}" for option, value in rule.options.items())
    for option, values in rule.reads.items():
        yield "reads", f"{option} {' or '.join(map(_word, values))}"
    for one in rule.partly:
        what = ", ".join(f"{option}={_word(value)}" for option, value in one.when.items())
        yield "partly", f"{'experts ' if one.experts else ''}{what}".strip() + f": read by {one.by}"
    if rule.rows > 1 or rule.columns > 1:
        yield "needs", _multiples(Limit(rule.rows, rule.columns))
    for limit in rule.limits:
        when = ", ".join(f"{option}={_word(value)}" for option, value in limit.when.items())
        yield "needs", f"{f'with {when}: ' if when else ''}{_multiples(limit)}, {limit.why}"
    if rule.computes:
        yield "computes", f"in {rule.computes}, whatever the model is"
    if rule.shares_scales:
        yield "shares", "one global scale among q, k, v and other joined tensors"
    if convention.dims:
        yield "takes", f"{' and '.join(f'{n}-D' for n in convention.dims)} tensors"
    if convention.config:
        yield "writes", "quantization_config into config.json"


def _multiples(limit: Limit) -> str:
    parts = [
        f"{what} a multiple of {count}"
        for what, count in (
            ("rows", limit.rows),
            ("columns", limit.columns),
            ("rows of joined tensors", limit.fused_rows),
        )
        if count != 1
    ]
    return ", ".join((*parts, *(("no experts",) if not limit.experts else ())))


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(str, value))}]"
    return str(value)
