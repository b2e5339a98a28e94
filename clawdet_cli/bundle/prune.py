"""What of OpenClaw's packages no server needs: two files in five, and the files are what unpacking costs."""

from pathlib import Path

UNREAD = frozenset({".map", ".ts", ".mts", ".cts"})
"""For debuggers and compilers: Node refuses TypeScript below node_modules."""
WHOLE = frozenset({"openclaw", "typescript"})
"""OpenClaw checks its own files by an inventory, and a compiler's declarations are its library."""


def prune(modules: Path) -> None:
    """Remove it from a folder node_modules."""
    for package in modules.iterdir():
        if package.name in WHOLE:
            continue
        for path in package.rglob("*"):
            if path.suffix in UNREAD and path.is_file() and not path.is_symlink():
                path.unlink()
