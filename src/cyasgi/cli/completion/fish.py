"""The script for fish."""

from __future__ import annotations

from collections.abc import Iterator

from .words import APPLICATION, CHOICE, DIRECTORY, FILE, FLAG, GROUP, USER, Command, Option

#: What fish completes a value with.
ACTIONS = {
    FILE: "--require-parameter --force-files",
    DIRECTORY: "--exclusive --arguments '(__fish_complete_directories)'",
    USER: "--exclusive --arguments '(__fish_complete_users)'",
    GROUP: "--exclusive --arguments '(__fish_complete_groups)'",
}

SCRIPT = """\
# fish completion for cyasgi, printed by: cyasgi completion fish

function __cyasgi_applications
    set -l words (commandline -opc)
    set -l directory .
    for number in (seq (count $words))
        if string match -q -- '--app-dir=*' $words[$number]
            set directory (string replace -- '--app-dir=' '' $words[$number])
        else if test $words[$number] = --app-dir; and test $number -lt (count $words)
            set directory $words[(math $number + 1)]
        end
    end
    env _CYASGI_APPLICATIONS=$directory $words[1] (commandline -ct) 2>/dev/null
end

complete --command cyasgi --no-files
%s
"""

ALONE, WITHIN = "__fish_use_subcommand", "__fish_seen_subcommand_from {}"


def script(options: list[Option], commands: list[Command]) -> str:
    """Return the script.

    Args:
        options: those of the command without a sub-command.
        commands: the sub-commands.
    """
    return SCRIPT % "\n".join(_lines(options, commands))


def _lines(options: list[Option], commands: list[Command]) -> Iterator[str]:
    yield from (_line(ALONE, _option(one)) for one in options)
    for command in commands:
        yield _line(ALONE, f"--arguments {command.name} --description {_quoted(command.text)}")
    for command in commands:
        within = WITHIN.format(command.name)
        yield from (_line(within, _option(one)) for one in command.options)
        if command.kind == APPLICATION:
            yield _line(within, "--arguments '(__cyasgi_applications)'")
        elif command.kind == CHOICE:
            yield _line(within, f"--arguments {_quoted(' '.join(command.choices))}")


def _line(condition: str, rest: str) -> str:
    return f"complete --command cyasgi --condition {_quoted(condition)} {rest}"


def _option(option: Option) -> str:
    names = (f"--long {name[2:]}" if name.startswith("--") else f"--short {name[1:]}" for name in option.names)
    if option.kind == FLAG:
        action = ""
    elif option.kind == CHOICE:
        action = f"--exclusive --arguments {_quoted(' '.join(option.choices))}"
    else:
        action = ACTIONS.get(option.kind, "--exclusive")
    return " ".join(filter(None, [*names, action, f"--description {_quoted(option.text)}"]))


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
