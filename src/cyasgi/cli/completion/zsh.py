"""The script for zsh."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .words import APPLICATION, CHOICE, DIRECTORY, FILE, FLAG, GROUP, USER, Command, Option

#: What zsh completes a value with.
ACTIONS = {FILE: "_files", DIRECTORY: "_files -/", USER: "_users", GROUP: "_groups"}

SCRIPT = """\
#compdef cyasgi
# zsh completion for cyasgi, printed by: cyasgi completion zsh

_cyasgi_applications() {
    local directory=${opt_args[--app-dir]:-.}
    local -a found
    found=(${(f)"$(_CYASGI_APPLICATIONS=${(Q)directory//\\\\:/:} ${~program} ${(Q)PREFIX} 2>/dev/null)"})
    # What is to be gone on with gets no space.
    compadd -S '' -- ${(M)found:#*[.:]}
    compadd -- ${found:#*[.:]}
}

_cyasgi() {
    local curcontext=$curcontext program=$words[1] state line
    local -a commands
    local -A opt_args
    commands=(
%(commands)s
    )
    _arguments -C -S \\
%(options)s
        '1: :->command' \\
        '*:: :->rest' && return
    case $state in
        command) _describe -t commands command commands ;;
        rest)
            case $words[1] in
%(cases)s
            esac
            ;;
    esac
}

if [[ $funcstack[1] == _cyasgi ]]; then
    _cyasgi "$@"
else
    compdef _cyasgi cyasgi
fi
"""

CASE = """\
                {name})
                    _arguments -S \\
{arguments}
                    ;;"""


def script(options: list[Option], commands: list[Command]) -> str:
    """Return the script.

    Args:
        options: those of the command without a sub-command.
        commands: the sub-commands.
    """
    described = (f"        {_quoted(f'{one.name}:{one.text}')}" for one in commands)
    return SCRIPT % {
        "commands": "\n".join(described),
        "options": "\n".join(f"        {one} \\" for one in _specs(options)),
        "cases": "\n".join(map(_case, commands)),
    }


def _case(command: Command) -> str:
    specs = list(_specs(command.options))
    if command.kind == APPLICATION:
        specs.append("'*:application:_cyasgi_applications'")
    elif command.kind == CHOICE:
        specs.append(_quoted(f"1:value:({' '.join(command.choices)})"))
    return CASE.format(name=command.name, arguments=" \\\n".join(f"{' ' * 24}{one}" for one in specs))


def _specs(options: list[Option]) -> Iterator[str]:
    """Yield what `_arguments` is told of each name."""
    for option in options:
        text = re.sub(r"([\[\]\\:])", r"\\\1", option.text)
        for name in option.names:
            # Those that it cannot be given together with, itself included unless it may be given again.
            without = f"({' '.join((*option.names, *option.others))})"
            if option.kind == FLAG:
                yield _quoted(f"{without}{name}[{text}]")
                continue
            equals = "=" if name.startswith("--") else ""
            action = f"({' '.join(option.choices)})" if option.kind == CHOICE else ACTIONS.get(option.kind, " ")
            yield _quoted(f"{'*' if option.several else without}{name}{equals}[{text}]:value:{action}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
