"""Text from elsewhere, made harmless for the terminal that it will be read on. Imports nothing of ours."""

import re

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours and cursor movements
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"  # titles, links and other strings for the terminal
    r"|\x1b[ -/]*[0-~]?"
)
_OTHER_SPACE = re.compile(r"[^\S ]+")


def harmless(text: str) -> str:
    """Make one line of a text, without anything that does something to a terminal or is not seen there."""
    if text.isprintable():
        return text  # nearly all is: escapes, breaks, tabs and half surrogate pairs are not
    seen = text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair is shown, not lost
    plain = _ESCAPES.sub("", _OTHER_SPACE.sub(" ", seen))
    # Not a list of ours: controls, the reading order, what has no width, and what no character is.
    return plain if plain.isprintable() else "".join(filter(str.isprintable, plain))
