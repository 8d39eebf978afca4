"""Text of whatever origin, made short and safe to write anywhere."""

from __future__ import annotations

#: What is put where text was left out.
GAP = "…"


def bounded(text: str, most: int, *, keep_end: bool = False) -> str:
    """Return the text in at most so many characters, each of which can be shown or is a newline or a tab.

    Others, such as NUL and halves of surrogate pairs, are written as escapes.

    Args:
        most: characters, at least 1.
        keep_end: leave out of the beginning what is too much, not of the end.
    """
    # What is left out costs nothing; one more tells that something was.
    cut = text[-most - 1 :] if keep_end else text[: most + 1]
    if not cut.isprintable():
        cut = "".join(
            one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode() for one in cut
        )
    if len(cut) <= most:
        return cut
    return GAP + cut[len(cut) - most + 1 :] if keep_end else cut[: most - 1] + GAP
