"""The script for bash, from version 3.2 on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from .words import APPLICATION, CHOICE, DIRECTORY, FILE, FLAG, GROUP, USER, Command, Option

#: How bash finds what follows an option.
FOUND = {FILE: "-f", DIRECTORY: "-d", USER: "-u", GROUP: "-g"}

SCRIPT = """\
# bash completion for cyasgi, printed by: cyasgi completion bash

# What follows an option of a command: how compgen finds it; "none" if it cannot, and nothing if the option is complete.
_cyasgi_follows() {
    follows=()
    case $1:$2 in
%(options)s
    esac
}

_cyasgi() {
    local line=${COMP_LINE:0:COMP_POINT} program command= option= directory=. current value word cut= number
    local words=() follows=() found=() IFS=$' \\t\\n'
    # bash has split the line also at : and =, which are within words of this command.
    read -r -a words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    program=${words[0]/#\\~/$HOME}
    for ((number = 1; number < ${#words[@]} - 1; number++)); do
        word=${words[number]}
        if [[ -n $option ]]; then
            [[ $option == --app-dir ]] && directory=$word
            option=
        elif [[ $word == --app-dir=* ]]; then
            directory=${word#*=}
        elif [[ $word == -* ]]; then
            _cyasgi_follows "$command" "$word"
            [[ ${#follows[@]} -gt 0 ]] && option=$word
        elif [[ -z $command ]]; then
            command=$word
        fi
    done
    current=${words[${#words[@]} - 1]}
    value=$current
    if [[ -z $option && $current == -*=* ]]; then
        option=${current%%%%=*} value=${current#*=}
    fi
    COMPREPLY=()
    IFS=$'\\n'
    if [[ -n $option ]]; then
        _cyasgi_follows "$command" "$option"
        # Paths are left to readline, which knows ~ and quotes; bash 3.2 cannot be told so.
        case ${follows[0]:-none} in
            none) return ;;
            -f) compopt -o default 2>/dev/null && return ;;
            -d) compopt -o dirnames 2>/dev/null && return ;;
        esac
        found=($(IFS=' '; compgen "${follows[@]}" -- "$value"))
        found=("${found[@]/#/${current%%"$value"}}")
    else
        case $command:$current in
%(words)s
        esac
    fi
    # What is before the last : or = stays, if bash has split there.
    for word in : =; do
        if [[ $COMP_WORDBREAKS == *$word* && $current == *$word* ]]; then
            word=${current%%"${current##*"$word"}"}
            [[ ${#word} -gt ${#cut} ]] && cut=$word
        fi
    done
    for word in "${found[@]}"; do
        [[ $word == "$current"* ]] && COMPREPLY+=("${word#"$cut"}")
    done
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[.:] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}

complete -F _cyasgi cyasgi
"""

APPLICATIONS = 'found=($(_CYASGI_APPLICATIONS=$directory "$program" "$current" 2>/dev/null))'


def script(options: list[Option], commands: list[Command]) -> str:
    """Return the script.

    Args:
        options: those of the command without a sub-command.
        commands: the sub-commands.
    """
    every = [("", options), *((command.name, command.options) for command in commands)]
    follows = "\n".join(
        _follows(command, option) for command, found in every for option in found if option.kind != FLAG
    )
    return SCRIPT % {"options": follows, "words": "\n".join(_words(options, commands))}


def _follows(command: str, option: Option) -> str:
    values = shlex.quote(" ".join(option.choices))
    how = f"-W {values}" if option.kind == CHOICE else FOUND.get(option.kind, "none")
    return f"        {'|'.join(f'{command}:{name}' for name in option.names)}) follows=({how}) ;;"


def _words(options: list[Option], commands: list[Command]) -> Iterator[str]:
    """Yield a case for each command, and for whether an option is begun."""

    def listed(*names: str) -> str:
        return f"found=($(IFS=' '; compgen -W {shlex.quote(' '.join(names))} -- \"$current\"))"

    yield f"            :-*) {listed(*_names(options))} ;;"
    yield f"            :*) {listed(*(command.name for command in commands))} ;;"
    for command in commands:
        yield f"            {command.name}:-*) {listed(*_names(command.options))} ;;"
        if command.kind == APPLICATION:
            yield f"            {command.name}:*) {APPLICATIONS} ;;"
        elif command.kind == CHOICE:
            yield f"            {command.name}:*) {listed(*command.choices)} ;;"


def _names(options: list[Option]) -> Iterator[str]:
    for option in options:
        yield from option.names
