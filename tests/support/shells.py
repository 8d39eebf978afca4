"""Interactive shells on a terminal of their own, to which keys are sent: what a line has become after them."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import time

from support.loops import PATIENCE
from support.real_clients import tool

#: In each shell, the first key completes, the second puts all completions into the line, the third writes the line out.
COMPLETE, ALL, TELL = "\t", "\x0f", "\x07"

BASH = r"""
bind '"\C-o": insert-completions'
_told() { printf '%s\n' "$READLINE_LINE" >"$TOLD.new"; mv "$TOLD.new" "$TOLD"; READLINE_LINE=; }
bind -x '"\C-g": _told'
PS1='ready> '
"""
ZSH = r"""
PS1='ready> '
fpath=(~/.zfunc $fpath)
autoload -Uz compinit && compinit -u -D
_all() { _main_complete; compstate[insert]=all compstate[list]= }
zle -C _all complete-word _all
bindkey '^O' _all
_told() { print -r -- $BUFFER >$TOLD.new; mv $TOLD.new $TOLD; BUFFER= }
zle -N _told
bindkey '^G' _told
"""
STARTS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], BASH),
    "zsh": (["zsh", "--no-rcs", "-i"], ZSH),
}


class Shell:
    """A shell at home in this folder that has run these commands; `environment` is all that it inherits."""

    def __init__(self, name, commands, folder, environment):
        arguments, setup = STARTS[name]
        self._told = folder / "told"
        (folder / ".setup").write_text(f"{setup}\n{commands}\n", encoding="utf-8")
        ours, theirs = pty.openpty()
        self._terminal = ours
        self.output = b""
        try:
            self._process = subprocess.Popen(
                [tool(arguments[0]), *arguments[1:]],
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                cwd=folder,
                env={**environment, "TERM": "dumb", "TOLD": str(self._told), "HOME": str(folder)},
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        self.send(f"source {folder / '.setup'}\n")
        self._until(lambda: b"ready> " in self.output)

    def send(self, keys):
        os.write(self._terminal, keys.encode())

    def line(self, keys):
        """What the line has become after these keys."""
        self.send(keys + TELL)
        self._until(self._told.exists)
        text = self._told.read_text(encoding="utf-8").removesuffix("\n")
        self._told.unlink()
        return text

    def _until(self, condition):
        deadline = time.monotonic() + PATIENCE / 2
        while not condition():
            assert time.monotonic() < deadline, self.output.decode(errors="replace")
            readable, _, _ = select.select([self._terminal], [], [], 0.01)
            if readable:
                self.output += os.read(self._terminal, 65_536)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            os.close(self._terminal)
