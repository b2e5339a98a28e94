"""The commands of a document, to be run as they stand there."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]


def commands(name: str) -> list[str]:
    """Return the lines of the document's shell blocks that call clawdet."""
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```", (ROOT / name).read_text())
    return [line for block in blocks for line in block.splitlines() if line.startswith("clawdet ")]


def arguments(line: str) -> list[str]:
    """Return what clawdet is given by a line, without the shell's own redirections."""
    words = shlex.split(line, comments=True)[1:]
    end = next((n for n, word in enumerate(words) if word[0] in "<>"), len(words))
    return words[:end]
