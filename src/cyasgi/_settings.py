"""Bounds: what a setting accepts, as an attribute of a server, or as text in the command and its configuration file.

A bound is called with the name and a value, as `Setting` calls its `check`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any


def number(value: Any) -> bool:
    """Return whether the value is an int or float, and not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def as_float(value: float) -> float:
    """Convert to float; an int that is too large becomes infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def refuse(kind: type[Exception], name: str, value: Any, accepted: str) -> Exception:
    """Return the error, of this kind, for a value that is not accepted."""
    return kind(f"{name}={value!r}: accepted is {accepted}")


def _shown(value: float) -> str:
    """Format a number as people write it: 1e6, not 1e+06."""
    return re.sub(r"e([-+])0*", lambda sign: "e" + sign[1].strip("+"), f"{value:g}")


class Bound:
    """What a setting accepts.

    Args:
        accepted: the same in words, for errors about attributes.
        in_text: the same in words, for errors about text; None if such values cannot be written as text.
        none: what None stands for; empty if it is not accepted.
    """

    def __init__(self, accepted: str, in_text: str | None = None, none: str = "") -> None:
        self.none = bool(none)
        self.accepted = f"{accepted}, or None for {none}" if none else accepted
        self.in_text = f"are {in_text}, and none for {none}" if none else f"is {in_text}"

    def __call__(self, name: str, value: Any) -> None:
        """Check a value for the setting with this name.

        Raises:
            TypeError, ValueError: the value is not accepted; the message says what is.
        """
        if (value is None and self.none) or (wrong := self.wrong(value)) is None:
            return
        raise refuse(wrong, name, value, self.accepted)

    def parse(self, text: str) -> Any:
        """Return the value for this text.

        Raises:
            ValueError: the text is not accepted; the message says what is.
        """
        if self.none and text == "none":
            return None
        try:
            value = self.read(text)
        except ValueError:
            wrong: type[Exception] | None = ValueError
        else:
            wrong = self.wrong(value)
        if wrong is not None:
            raise ValueError(f"{text!r}: accepted {self.in_text}")
        return value

    def written(self, value: Any) -> str:
        """Return the text for a value."""
        return "none" if value is None else str(value)

    def wrong(self, value: Any) -> type[Exception] | None:
        """Return the kind of error that the value causes; None if it is accepted."""
        raise NotImplementedError

    def read(self, text: str) -> Any:
        """Return the value for this text, accepted or not; raise ValueError if there is none."""
        raise NotImplementedError


class Integer(Bound):
    """An int within bounds; `zero` says what 0 stands for if it is special."""

    def __init__(self, least: int, most: int | None = None, *, zero: str = "", none: str = "") -> None:
        reach = f"of at least {least}" if most is None else f"from {least} to {most}"
        accepted, in_text = f"an int {reach}", f"a whole number {reach}"
        if zero:
            accepted, in_text = f"{accepted}, 0 for {zero}", f"{in_text}, where 0 stands for {zero}"
        super().__init__(accepted, in_text, none)
        self.least, self.most = least, most

    def wrong(self, value: Any) -> type[Exception] | None:
        if not isinstance(value, int) or isinstance(value, bool):
            return TypeError
        return ValueError if value < self.least or (self.most is not None and value > self.most) else None

    def read(self, text: str) -> int:
        if not (text.isascii() and text.removeprefix("-").isdigit()):
            raise ValueError
        return int(text)


class Number(Bound):
    """A finite int or float: above 0, or from `least` to `most`."""

    def __init__(
        self, what: str = "number", *, least: float | None = None, most: float | None = None, none: str = ""
    ) -> None:
        if most is not None:
            reach = f" above 0, at most {_shown(most)}"
            if least is not None:
                reach = f" from {_shown(least)} to {_shown(most)}"
            accepted, in_text = f"a {what}{reach}", f"a {what}{reach}"
        elif least is None:
            accepted, in_text = f"a finite {what} above 0", f"a {what}, more than 0"
        else:
            accepted, in_text = f"a finite {what}, at least {least:g}", f"a {what}, {least:g} or more"
        super().__init__(accepted, in_text, none)
        self.least, self.most = least, most

    def wrong(self, value: Any) -> type[Exception] | None:
        if not number(value):
            return TypeError
        # Compared as it is used: as a float, for which an int may be too large.
        value = as_float(value)
        enough = value > 0 if self.least is None else value >= self.least
        return None if enough and (value < math.inf if self.most is None else value <= self.most) else ValueError

    def read(self, text: str) -> float:
        return float(text)


class Choice(Bound):
    """One of a few words."""

    def __init__(self, choices: Iterable[str]) -> None:
        self.choices = tuple(choices)
        words = " or ".join(map(repr, self.choices))
        super().__init__(words, words)

    def wrong(self, value: Any) -> type[Exception] | None:
        if not isinstance(value, str):
            return TypeError
        return None if value in self.choices else ValueError

    def read(self, text: str) -> str:
        return text


class Boolean(Bound):
    """True or False; options have a name for each instead of text."""

    def __init__(self) -> None:
        super().__init__("True or False")

    def wrong(self, value: Any) -> type[Exception] | None:
        return None if isinstance(value, bool) else TypeError


class RootPath(Bound):
    """The path at which an application is mounted."""

    def __init__(self) -> None:
        super().__init__(
            "a str that is empty or begins with a slash and does not end with one",
            "a path as in /api, that begins with a slash and does not end with one",
        )

    def wrong(self, value: Any) -> type[Exception] | None:
        if not isinstance(value, str):
            return TypeError
        return ValueError if value and (not value.startswith("/") or value.endswith("/")) else None

    def read(self, text: str) -> str:
        return text


class Permissions(Integer):
    """Permissions of a file; an octal number as text."""

    def __init__(self) -> None:
        super().__init__(0, 0o777)
        self.accepted = "an int from 0 to 0o777, as in 0o660"
        self.in_text = "is an octal number from 0 to 777, as in 660"

    def read(self, text: str) -> int:
        # int() alone would accept "+6", "6_6" and digits of any script.
        return int(text, 8) if text.isascii() and text.isalnum() else super().read(text)

    def written(self, value: Any) -> str:
        return f"{value:o}" if isinstance(value, int) else str(value)
