"""Write the reference pages of docs/reference, in every language, from what the code declares.

    python tools/make_reference.py             # write them
    python tools/make_reference.py --check     # end with 1 if one is not current or not translated
    python tools/make_reference.py --missing   # print what docs/zh.yaml lacks, as YAML to fill in

Commands and their options are those of click's tree; schemes, conventions and families those of the tables
and of ``formats/``; sections of recipes and the Python interface those of the dataclasses and docstrings.
All words of the code are English; ``docs/zh.yaml`` maps each sentence of them to Chinese, so both languages
have one source.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import yaml

import transcode
from transcode import catalog, schemes
from transcode.cli import cli
from transcode.cli.reference import reference

__all__ = ["LANGUAGES", "Words", "documented", "main", "pages"]

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
TRANSLATIONS = ROOT / "docs" / "zh.yaml"
LANGUAGES = ("en", "zh")

Row = Sequence[object]


class Words:
    """Sentences in one language; what is asked for and not translated is kept in ``missing``."""

    def __init__(self, language: str, translations: dict[str, str]) -> None:
        self._translations = translations
        self._english = language == "en"
        self.missing: dict[str, None] = {}
        self.used: set[str] = set()

    def __call__(self, text: str) -> str:
        """A sentence or a title, as a reader of this language has it."""
        text = " ".join(text.split())
        if self._english or not re.search("[A-Za-z]", text):
            return text
        if text not in self._translations:
            self.missing[text] = None
            return text
        self.used.add(text)
        return self._translations[text]


# Markdown ---------------------------------------------------------------------------------------------------


def _table(header: Sequence[str], rows: Sequence[Row]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines) + "\n"


def _cell(value: object) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", str(value)).replace("\n", " ")


def _code(value: object) -> str:
    return f"`{value}`"


def _prose(text: str) -> str:
    """What a docstring or a help text says, as Markdown."""
    text = re.sub(r":\w+:`~?([^`]*)`", lambda role: _code(role[1].rpartition(".")[2].strip()), text)
    return text.replace("``", "`").replace("<", "&lt;")


def _heading(title: str, notice: str) -> str:
    return f"<!-- Written by tools/make_reference.py. -->\n\n# {title}\n\n{notice}\n\n"


# Commands ---------------------------------------------------------------------------------------------------


def _commands(words: Words) -> str:
    text = _heading(
        words("Commands"),
        words(
            "Every command and option, as the program declares them. `transcode COMMAND --help` is shorter."
        ),
    )
    root = click.Context(cli, info_name="transcode", **cli.context_settings)
    rows = [(f"[`{name}`](#transcode-{name})", words(short)) for name, short in _summaries(cli, root)]
    text += _table((words("command"), words("what it does")), rows)
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None
        text += _command(command, click.Context(command, root, name, **command.context_settings), words)
    return text


def _summaries(group: click.Group, context: click.Context) -> Iterator[tuple[str, str]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield name, command.get_short_help_str(limit=500)


def _command(command: click.Command, context: click.Context, words: Words, depth: int = 2) -> str:
    path = context.command_path.removeprefix("transcode ")
    text = f"{'#' * depth} transcode {path}\n\n"
    usage = " ".join(command.collect_usage_pieces(context))
    text += f"```text\n{context.command_path} {usage}\n```\n\n"
    text += "".join(_paragraph(block, words) for block in _blocks(command.help or ""))
    groups: dict[str, list[Row]] = {}
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option) and not parameter.hidden:
            groups.setdefault(str(getattr(parameter, "group", None) or ""), []).append(
                _option(parameter, words)
            )
    for title, rows in groups.items():
        if title:
            text += f"**{words(title)}**\n\n"
        text += _table((words("option"), words("meaning"), words("default")), rows)
    text += "".join(_paragraph(block, words) for block in _blocks(command.epilog or ""))
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            text += _command(
                below, click.Context(below, context, name, **below.context_settings), words, depth + 1
            )
    return text


def _blocks(text: str) -> list[str]:
    """Paragraphs; those that click is not to wrap begin with a backspace."""
    return [block for block in inspect.cleandoc(text).replace("\f", "").split("\n\n") if block.strip("\b \n")]


def _paragraph(block: str, words: Words) -> str:
    if not block.startswith("\b"):
        return f"{_prose(words(block))}\n\n"
    lines = block.strip("\b\n").splitlines()
    title = f"{words(lines[0])}\n\n" if re.match(r"Examples?:", lines[0]) else ""
    if not title:
        return f"{_prose(words(block.strip(chr(8))))}\n\n"
    examples = inspect.cleandoc("\n".join(lines[1:]))
    return f"{title}```text\n{examples}\n```\n\n"


def _option(option: click.Option, words: Words) -> Row:
    names = ", ".join(map(_code, option.opts))
    if option.secondary_opts:
        names += " / " + ", ".join(map(_code, option.secondary_opts))
    if not option.is_flag and not option.count:
        if isinstance(option.type, click.Choice):
            names += " " + _code("|".join(map(str, option.type.choices)))
        else:
            names += " " + _code(option.metavar or option.type.name.upper())
    help_text = _prose(words(option.help)) if option.help else ""
    return names, help_text, _default(option)


def _default(option: click.Option) -> str:
    value = option.default
    if value is None or value is False or value == () or not isinstance(value, str | int | float | bool):
        return ""
    if option.is_flag:
        return _code(option.opts[0])
    return _code(value)


# Schemes, conventions, families -----------------------------------------------------------------------------


def _schemes(words: Words) -> str:
    text = _heading(
        words("Schemes"),
        words(
            "Numeric formats that `--scheme` takes. `-O NAME=VALUE` sets an option; a convention may"
            " set others, and refuses what its consumer does not read."
        ),
    )
    for name, scheme in schemes.SCHEMES.items():
        text += f"## {name}\n\n{words(scheme.summary)}\n\n"
        rows = []
        for field in fields(scheme):
            legal = scheme.options.get(field.name)
            values = "" if legal is None else _legal(legal, words)
            only = scheme.only_with.get(field.name)
            if only is not None:
                values += f" ({words('only with')} {_code(f'{only[0]}={_value(only[1])}')})"
            rows.append((_code(field.name), values, _code(_value(field.default))))
        text += _table((words("option"), words("values"), words("default")), rows)
        takers = [
            f"[{_code(c.name)}](conventions.md#{c.name})"
            for c in catalog.every_convention()
            if name in c.schemes and c.unwritten is None
        ]
        text += f"{words('Written for:')} {', '.join(takers)}\n\n"
    return text


def _legal(legal: Any, words: Words) -> str:
    if legal.closed:
        return ", ".join(_code(_value(case)) for case in legal.cases)
    return str(words(legal.said))


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(str, value))}]"
    return str(value)


def _conventions(words: Words) -> str:
    text = _heading(
        words("Conventions"),
        words(
            "How each consumer spells and lays out what is stored. `--convention NAME` writes it, "
            "`transcode conventions show NAME` prints all of it."
        ),
    )
    for convention in catalog.every_convention():
        text += f"## {convention.name}\n\n{words(convention.title)}\n\n"
        if convention.unwritten is not None:
            text += f"{words('Only read:')} {words(convention.unwritten)}\n\n"
        rows = []
        for name, rule in convention.schemes.items():
            options = [_code(f"{key}={_value(value)}") for key, value in rule.options.items()]
            reads = [
                f"{_code(key)}: {', '.join(_code(_value(value)) for value in values)}"
                for key, values in rule.reads.items()
            ]
            parts = [_code(part.name) for part in rule.parts.values()]
            rows.append((_code(name), ", ".join(options), "; ".join(reads), ", ".join(parts)))
        if rows:
            header = (
                words("scheme"),
                words("options unless said"),
                words("values that are read"),
                words("stored as"),
            )
            text += _table(header, rows)
        else:
            text += f"{words('Plain tensors only.')}\n\n"
    return text


def _families(words: Words) -> str:
    text = _heading(
        words("Families"),
        words(
            "Architectures that are recognised by the names of their tensors, and what is quantized of them. "
            "`--to SPELLING` converts between spellings where a conversion is listed."
        ),
    )
    text += _conversions(words)
    for name in catalog.families():
        family = catalog.family(name)
        text += f"## {name}\n\n{words(family.title)}\n\n"
        rows = []
        for spelling, known in family.spellings.items():
            policy = family.spelled(spelling).policy
            targets = ", ".join(_code(target) for target in policy.targets)
            never = ", ".join(dict.fromkeys(words(label) for label in policy.never))
            for convention, patterns in policy.keeps.items():
                kept = ", ".join(_code(pattern) for pattern in patterns)
                never += f"; {words('for')} {_code(convention)} {kept}"
            fused = ", ".join(_code(_together(group.members)) for group in policy.fused)
            rows.append((_code(spelling), words(known.title), targets, never, fused))
        header = (
            words("spelling"),
            words("who uses it"),
            words("quantized"),
            words("never quantized"),
            words("one global scale"),
        )
        text += _table(header, rows)
    return text


def _together(group: Sequence[str]) -> str:
    """Names that differ in one place, as a shell would be told them: ``attn.to_{q,k,v}``."""
    start = _common(group)
    end = _common([name[len(start) :][::-1] for name in group])[::-1]
    between = ",".join(name[len(start) : len(name) - len(end)] for name in group)
    return f"{start}{{{between}}}{end}"


def _common(names: Sequence[str]) -> str:
    """What all of them begin with."""
    letters = itertools.takewhile(lambda same: len(set(same)) == 1, zip(*names, strict=False))
    return "".join(letter for letter, *_ in letters)


def _conversions(words: Words) -> str:
    """The table of families by the spellings that are converted into each other."""
    rows = []
    for name in catalog.families():
        family = catalog.family(name)
        for (one, other), conversion in (*family.conversions.items(), *family.others):
            joins = any(len(rule.right) > 1 for rule in conversion.rules)
            swaps = any(rule.swapped for rule in conversion.rules)
            stacks = any(rule.stacks for rule in conversion.rules)
            orders = any(rule.grid is not None for rule in conversion.rules)
            moved = [words("joined and split")] * joins + [words("halves swapped")] * swaps
            moved += [words("stacked")] * stacks + [words("put in another order")] * orders
            models = ", ".join(_code(str(kind)) for kinds in conversion.holds.values() for kind in kinds)
            pair = f"{_code(one)} ↔ {_code(other)}"
            rows.append((_code(name), pair, models or words("all"), ", ".join(moved) or words("none")))
        converted = {end for pair, _ in (*family.conversions.items(), *family.others) for end in pair}
        alone = ", ".join(_code(one) for one in family.spellings if one not in converted)
        if alone:
            rows.append((_code(name), alone, words("not converted"), ""))
    header = (words("family"), words("converts both ways"), words("models"), words("rows that are moved"))
    return f"## {words('Conversions')}\n\n{_table(header, rows)}"


# Recipes and Python -----------------------------------------------------------------------------------------


def _recipes(words: Words) -> str:
    text = _heading(
        words("Recipes"),
        words(
            "Sections and keys of a YAML recipe with `steps`. `transcode recipe show run ...` prints the"
            " recipe of a command line, `transcode run --config FILE` runs one. Unknown keys are errors."
        ),
    )
    data = reference()
    for section in data["sections"]:
        text += f"## {section['name']}\n\n{_prose(words(section['help']))}\n\n"
        text += _keys(section["options"], words)
    text += "## steps\n\n"
    text += f"{words('A list; each entry is one step with its options. They are done in order.')}\n\n"
    for stage in data["stages"]:
        text += f"### {stage['name']}\n\n{_prose(words(stage['help']))}\n\n"
        if stage["alone"]:
            text += _prose(words("May stand alone, without its key:")) + f" {_code(stage['alone'])}\n\n"
        text += _keys(stage["options"], words)
    return text


def _keys(options: Sequence[dict[str, Any]], words: Words) -> str:
    rows: list[Row] = []
    for option in options:
        meaning = [words(text) for text in (option["help"], option["about"]) if text]
        if 0 < len(option["choices"]) <= _FEW:
            meaning.append(", ".join(map(_code, option["choices"])))
        default = "" if option["default"] is None else _code(option["default"])
        rows.append((", ".join(map(_code, option["keys"])), _prose(" ".join(meaning)), default))
    return _table((words("key"), words("meaning"), words("default")), rows)


_FEW = 8
"""Choices that are worth naming in a table: conventions and families have pages of their own."""


def _python(words: Words) -> str:
    text = _heading(
        words("Python"),
        words(
            "`import transcode as tc`. What the package offers; numpy and torch load when they are needed."
        ),
    )
    for name in transcode.__all__:
        text += _offered(f"tc.{name}", getattr(transcode, name), words)
    return text


def _offered(name: str, public: Any, words: Words, depth: int = 2) -> str:
    """A function, a class with its members, or a module with what it offers."""
    text = f"{'#' * depth} {name}\n\n"
    if inspect.isfunction(public):
        text += f"```text\n{name}{_signature(public)}\n```\n\n"
    body, arguments = documented(public)
    text += "".join(f"{_prose(words(paragraph))}\n\n" for paragraph in body)
    if arguments:
        rows = [(_code(key), _prose(words(said))) for key, said in arguments.items()]
        text += _table((words("argument"), words("meaning")), rows)
    if inspect.isclass(public):
        text += _members(public, words)
    if inspect.ismodule(public):
        for inner in public.__all__:
            text += _offered(f"{name}.{inner}", getattr(public, inner), words, depth + 1)
    return text


def _signature(function: Any) -> str:
    signature = str(inspect.signature(function))
    return re.sub(r"\btranscode(\.\w+)+\.(\w+)", r"\2", signature).replace("'", "")


def _members(public: type[Any], words: Words) -> str:
    rows: list[Row] = []
    for name, member in vars(public).items():
        if name.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property)):
            continue
        function: Any = member.fget if isinstance(member, property) else member
        if (doc := inspect.getdoc(function)) is None:
            continue
        shown = name
        if not isinstance(member, property):
            shown += f"({', '.join(list(inspect.signature(function).parameters)[1:])})"
        rows.append((_code(shown), _prose(words(doc.split("\n\n")[0]))))
    return _table((words("member"), words("meaning")), rows) if rows else ""


def documented(thing: Any) -> tuple[list[str], dict[str, str]]:
    """Paragraphs of a docstring, and what it says of each argument or attribute."""
    paragraphs: list[str] = []
    arguments: dict[str, str] = {}
    bases = thing.__mro__ if inspect.isclass(thing) and is_dataclass(thing) else (thing,)
    for number, one in enumerate(bases):
        doc = inspect.cleandoc(one.__doc__ or "") if one is not object else ""
        for block in doc.split("\n\n"):
            title, _, rest = block.partition("\n")
            if title in ("Args:", "Attributes:"):
                for entry in re.split(r"\n(?=\S)", inspect.cleandoc("\n" + rest)):
                    names, _, said = entry.partition(":")
                    for name in names.split(","):
                        arguments.setdefault(name.strip(), said.strip())
            elif (
                title not in ("Raises:", "Returns:", "Yields:")
                and number == 0
                and not block.startswith(">>>")
            ):
                paragraphs += [block] if block.strip() else []
    return paragraphs, arguments


# All of it --------------------------------------------------------------------------------------------------

_PAGES = {
    "commands": _commands,
    "schemes": _schemes,
    "conventions": _conventions,
    "families": _families,
    "recipes": _recipes,
    "python": _python,
}


def pages(language: str, words: Words) -> dict[Path, str]:
    """Every page of one language: path and text."""
    suffix = ".md" if language == "en" else f".{language}.md"
    return {
        REFERENCE / f"{name}{suffix}": _tidy(page(words), suffix).rstrip("\n") + "\n"
        for name, page in _PAGES.items()
    }


def _tidy(text: str, suffix: str) -> str:
    """Links to pages of the same language, and no space behind full-width punctuation."""
    text = re.sub(r"(\]\(\w+)\.md\b", rf"\1{suffix}", text)
    return re.sub(r"(?<=[\u3002\uff1a\uff1b]) (?!\|)", "", text)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages, or look whether they are current."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; end with 1 if something is not current"
    )
    parser.add_argument("--missing", action="store_true", help="print the sentences that docs/zh.yaml lacks")
    arguments = parser.parse_args(argv)
    translations = yaml.safe_load(TRANSLATIONS.read_text(encoding="utf-8")) if TRANSLATIONS.exists() else {}
    trouble: list[str] = []
    for language in LANGUAGES:
        words = Words(language, translations or {})
        for path, text in pages(language, words).items():
            if not arguments.check and not arguments.missing:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
            elif not path.exists() or path.read_text(encoding="utf-8") != text:
                trouble.append(f"{path.relative_to(ROOT)} is not current: run python tools/make_reference.py")
        if language == "en":
            continue
        if arguments.missing:
            dump = partial(yaml.safe_dump, allow_unicode=True, width=10**6, sort_keys=False)
            print(dump(dict.fromkeys(words.missing, "")), end="")
            return 0
        name = TRANSLATIONS.relative_to(ROOT)
        trouble += [f"{name}: has no translation of {text!r}" for text in words.missing]
        trouble += [
            f"{name}: nothing says {text!r} any more" for text in translations if text not in words.used
        ]
    for line in trouble:
        print(line, file=sys.stderr)
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
