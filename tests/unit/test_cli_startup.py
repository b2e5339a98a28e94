"""What a command does not load: start-up time is mostly imports."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from clawdet_cli import cli

SDKS = ("hcloud", "cloudflare", "paramiko", "cryptography", "httpx", "requests", "dns", "tenacity", "websockets")
HEAVY = ("rich", "pydantic", "ssl", "asyncio")

OF_THE_NAMES = {
    "clawdet_cli",
    "clawdet_cli.cli",
    "clawdet_cli.cli.coercion",
    "clawdet_cli.cli.help",
    "clawdet_cli.errors",
    "clawdet_cli.stopping",
}
"""What may be imported to list the commands' names."""

PROBE = """
import sys
from clawdet_cli import cli
code = cli.main(sys.argv[2:])
loaded = [name for name in sys.argv[1].split() if name in sys.modules]
sys.stderr.write("loaded: " + " ".join(loaded))
sys.exit(code)
"""


@pytest.mark.parametrize("argv", [["--help"], ["provision", "--help"], ["status"], ["status", "--json"], ["--version"]])
def test_looking_loads_no_sdk(tmp_path: Path, argv: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, " ".join(SDKS + HEAVY), *argv],
        env={"CLAWDET_STATE": str(tmp_path), "HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "loaded: "


IMPORTED = """
import atexit, sys
from clawdet_cli import cli
own = lambda: " ".join(sorted(name for name in sys.modules if name.startswith("clawdet_cli")))
atexit.register(lambda: sys.stderr.write(own()))
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("words", "completed", "more"),
    [
        ("clawdet pro", "provision", set()),
        ("clawdet ", "sandbox", set()),
        # Any command may be for the sandbox.
        ("clawdet doctor --js", "--json", {"doctor", "sandbox"}),
    ],
)
def test_completion_imports_no_command_but_the_one_it_completes(
    tmp_path: Path, words: str, completed: str, more: set[str]
) -> None:
    typed = words.split(" ")
    shell = {"_CLAWDET_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(typed) - 1)}
    code, out, imported = _imported(tmp_path, shell)
    assert code == 0
    assert completed in out.split()
    assert imported & {f"clawdet_cli.cli.{name}" for name in cli.COMMANDS} == {
        f"clawdet_cli.cli.{name}" for name in more
    }
    assert more or imported == OF_THE_NAMES


def test_help_imports_no_command(tmp_path: Path) -> None:
    code, out, imported = _imported(tmp_path, {}, "--help")
    assert code == 0
    assert "provision  Give a user a personal OpenClaw server" in out
    assert imported == OF_THE_NAMES


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_shows_the_sentence_of_the_table_and_the_rest_of_its_own_module(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"clawdet_cli.cli.{name}")
    assert cli.main([name, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{cli.COMMANDS[name][1]} {' '.join(module.HELP.partition(chr(8))[0].split())}" in shown


def _imported(folder: Path, more: dict[str, str], *argv: str) -> tuple[int, str, set[str]]:
    """Give the exit code, what was printed, and which modules of ours were imported."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *argv],
        env={"CLAWDET_STATE": str(folder), "HOME": str(folder), "PATH": "", **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, set(done.stderr.split())
