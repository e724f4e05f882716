"""How shells ask what may stand at the cursor: click's ways, but for values that hold ``=`` or ``:``.

Bash takes words apart at these, so it is asked for the line as it was typed, and gets only what follows the
last of them. All three want ``--scheme=int8`` whole where ``--scheme=i`` was typed: click gives the value.
"""

from __future__ import annotations

import os
from typing import Any

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

__all__ = ["Bash", "Fish", "Zsh", "known"]

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n'
    local line
    COMPREPLY=()
    while IFS=, read -r kind value; do
        if [[ $kind == 'dir' ]]; then
            compopt -o dirnames
        elif [[ $kind == 'file' ]]; then
            compopt -o default
        elif [[ $kind == 'plain' ]]; then
            [[ $value == *[=:,] ]] && compopt -o nospace
            COMPREPLY+=("$value")
        fi
    done < <(TRANSCODE_LINE="${COMP_LINE:0:COMP_POINT}" TRANSCODE_BREAKS="$COMP_WORDBREAKS" \
%(complete_var)s=bash_complete "$1")
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


_ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local -a finished open_ended
    local kind key descr
    (( ! $+commands[%(prog_name)s] )) && return 1
    for kind key descr in "${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \
%(complete_var)s=zsh_complete %(prog_name)s)}"; do
        if [[ $kind == plain ]]; then
            # Colons are escaped by click where there is a description.
            [[ $descr == _ ]] && key="${key//:/\\\\:}" || key="$key:$descr"
            if [[ $descr == _ && $key == *[=:,] ]]; then
                open_ended+=("$key")
            else
                finished+=("$key")
            fi
        elif [[ $kind == dir ]]; then
            _path_files -/
        elif [[ $kind == file ]]; then
            _path_files -f
        fi
    done
    (( $#finished )) && _describe -V unsorted finished -U
    (( $#open_ended )) && _describe -V unsorted open_ended -U -S ''
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""


class _Whole(ShellComplete):
    """Gives words whole, where click gives the value of an option behind ``=``."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        items = super().get_completions(args, incomplete)
        if incomplete.startswith("--") and "=" in incomplete:
            lead = incomplete[: incomplete.index("=") + 1]
            for item in items:
                if item.type == "plain" and not str(item.value).startswith("--"):
                    item.value = lead + str(item.value)
        return items


class Bash(_Whole, BashComplete):
    """Bash, given the line as it was typed."""

    source_template = _BASH

    @staticmethod
    def _check_version() -> None:
        """Nothing: it asks for no more than the bash of today's systems and of macOS has."""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("TRANSCODE_LINE", "")
        words = split_arg_string(line)
        incomplete = "" if not words or line[-1:].isspace() else words.pop()
        return words[1:], incomplete

    def complete(self) -> str:
        args, incomplete = self.get_completion_args()
        breaks = os.environ.get("TRANSCODE_BREAKS", "=:")
        last = max((incomplete.rfind(sign) for sign in "=:" if sign in breaks), default=-1)
        lines = []
        for item in self.get_completions(args, incomplete):
            value: Any = str(item.value)
            lines.append(f"{item.type},{value[last + 1 :] if item.type == 'plain' else value}")
        return "\n".join(lines)


class Zsh(_Whole, ZshComplete):
    """Zsh, without a space behind what goes on."""

    source_template = _ZSH


class Fish(_Whole, FishComplete):
    """Fish."""


def known() -> dict[str, type[ShellComplete]]:
    """The shells, by name; from here on click asks them."""
    shells: dict[str, type[ShellComplete]] = {"bash": Bash, "zsh": Zsh, "fish": Fish}
    for name, shell in shells.items():
        add_completion_class(shell, name)
    return shells
