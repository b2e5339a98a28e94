"""Runs the programs of the operating system, and tells processes apart safely."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from clawdet_cli.sandbox.errors import SandboxError

SECONDS = 120.0
"""What a program of the system may take; whoever packs or downloads asks for more."""


_SECRETS = ("_TOKEN", "_KEY", "_SECRET", "_PASSWORD", "_CREDENTIALS")


def without_secrets(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Leave out what the caller may have set for real clouds and providers: no child needs it, and some outlive him."""
    return {name: value for name, value in environment.items() if not name.endswith(_SECRETS)}


def run(command: Sequence[str], *, stdin: str = "", seconds: float = SECONDS) -> str:
    """Run a program to its end and return its output; raise SandboxError with its last words when it fails."""
    try:
        done = subprocess.run(
            command,
            input=stdin,
            env=without_secrets(),
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise SandboxError(f"{command[0]} had not ended after {seconds:g} s, and was stopped.") from None
    if done.returncode:
        raise SandboxError(_failure(command, done.returncode, done.stderr or done.stdout))
    return done.stdout


async def run_async(command: Sequence[str], *, stdin: str = "") -> str:
    """Run a program without holding up the event loop; raise SandboxError when it fails."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=pipe, env=without_secrets()
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate(stdin.encode())
    except (asyncio.CancelledError, TimeoutError):
        # What it was making is cleared by name later; it must not go on making it meanwhile.
        if process.returncode is None:
            process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise SandboxError(_failure(command, process.returncode, (err or out).decode(errors="replace")))
    return out.decode()


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when there is no such process.

    Together with the pid it names one process for ever, as pids are used again.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The program's name in parentheses may itself hold blanks and parentheses.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not sys.platform.startswith("linux") or start_time(pid) is not None


def arguments(pid: int) -> list[str]:
    """Return a process's command line; empty when it is gone or a kernel thread."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def _failure(command: Sequence[str], code: int, text: str) -> str:
    last = " / ".join(text.strip().splitlines()[-3:])
    return f"{command[0]} failed with exit code {code}: {last or 'it said nothing'}"
