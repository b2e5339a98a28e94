"""Simulated servers against what they play: the script's own text, and every command that clawdet builds."""

import ast
import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli import bootstrap
from clawdet_cli.sandbox.simulated import input as simulated_input
from clawdet_cli.sandbox.simulated.commands import execute
from clawdet_cli.sandbox.simulated.disk import SimulatedDisk
from clawdet_cli.sandbox.simulated.guest import Guest
from clawdet_cli.sandbox.simulated.knobs import Knobs
from clawdet_cli.sandbox.simulated.phases import CONFIGURE_STEPS, PREPARE_STEPS

SCRIPT = bootstrap.script().decode()
VERBS = ("prepare", "configure")
CLOUD_INIT_DONE = "cloud-init status --wait"
FOLDER = "/run/clawdet/00ff00ff00ff"


def words_of(array: str) -> list[str]:
    match = re.search(rf"{array}=\(([^)]*)\)", SCRIPT)
    assert match
    return match[1].split()


def keys_of(function: str, verb: str) -> set[str]:
    body = re.search(rf"^{function}\(\) {{\n(.*?)^}}", SCRIPT, re.DOTALL | re.MULTILINE)
    assert body
    line = re.search(rf"^    {verb}(?: \| ahead)?\) echo (.*?) ;;", body[1], re.DOTALL | re.MULTILINE)
    assert line
    return set(line[1].replace("\\\n", " ").split())


def test_the_steps_are_the_scripts() -> None:
    assert words_of("CONFIGURE_STEPS") == list(CONFIGURE_STEPS)
    first = re.search(r"begin_phase ([a-z ]+) ", SCRIPT)
    assert first
    parts = words_of("PROGRAM_STEPS") + words_of("MACHINE_STEPS") + words_of("LAST_STEPS")
    assert first[1].split() + parts == list(PREPARE_STEPS)


def test_the_texts_of_the_steps_are_the_scripts() -> None:
    said = re.findall(r"^  step ([a-z-]+) (?:'([^']*)'|\"([^\"]*)\")", SCRIPT, re.MULTILINE)
    texts = {name: re.sub(r"\$\{IN\[(\w+)\]\}", r"{given['\1']}", one or two) for name, one, two in said}
    module = Path(simulated_input.__file__).with_name("phases.py").read_text()
    calls = [node for node in ast.walk(ast.parse(module)) if isinstance(node, ast.Call)]
    made = {
        ast.literal_eval(call.args[0]): ast.unparse(call.args[1]).lstrip("f")[1:-1]
        for call in calls
        if ast.unparse(call.func) == "_Step"
    }
    assert made == texts


@pytest.mark.parametrize("verb", VERBS)
def test_the_keys_of_the_input_are_the_scripts(verb: str) -> None:
    assert set(simulated_input._REQUIRED[verb]) == keys_of("required_keys", verb)
    assert set(simulated_input._OPTIONAL[verb]) == keys_of("optional_keys", verb)


def test_the_lines_of_the_report_are_the_scripts(tmp_path: Path) -> None:
    printed = re.findall(r"^  print ([a-z0-9_]+) ", SCRIPT, re.MULTILINE)
    answer = said(tmp_path, bootstrap.installed("report"), tool=True)
    assert [line.partition("=")[0] for line in answer[1].splitlines()] == printed


@pytest.mark.parametrize(
    "command",
    [
        bootstrap.upload(FOLDER),
        *(bootstrap.start(verb, FOLDER) for verb in VERBS),
        *(bootstrap.follow(verb, offset) for verb in VERBS for offset in (0, 12345)),
        bootstrap.follow("configure", 12345, gather=0.3),
        bootstrap.join_boot("0" * 32),
        bootstrap.installed("certificate-request", "alice.clawdet.test"),
        bootstrap.installed("report"),
        bootstrap.installed("token"),
        bootstrap.REBOOT_REQUIRED,
        bootstrap.REBOOT,
        bootstrap.installed("nonce", "0123456789abcdef"),
        CLOUD_INIT_DONE,
        "uname -m",
    ],
)
def test_every_command_of_clawdet_is_understood(tmp_path: Path, command: str) -> None:
    assert "not simulated" not in said(tmp_path, command)[2]


def test_another_command_is_not(tmp_path: Path) -> None:
    assert "not simulated" in said(tmp_path, "uptime")[2]


def test_cloud_init_is_waited_for(tmp_path: Path) -> None:
    async def run() -> None:
        guest = fresh(tmp_path)
        waiting = asyncio.create_task(execute(guest, CLOUD_INIT_DONE, no_stdin))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
        guest.first_boot_over.set()
        assert (await waiting).out.endswith(b"\nstatus: done\n")

    asyncio.run(run())


async def no_stdin() -> bytes:
    return b""


def fresh(folder: Path) -> Guest:
    """Return a machine that has just been powered on."""
    return Guest("server", "debian-12", SimulatedDisk(folder / "files"), Knobs({}, lambda: None), 0.0)


def said(folder: Path, command: str, *, tool: bool = False) -> tuple[int, str, str]:
    """Run a command on a fresh simulated machine."""

    async def run() -> Any:
        guest = fresh(folder)
        if tool:
            guest.disk.write(bootstrap.INSTALLED_SCRIPT, "")
        guest.first_boot_over.set()
        answer = await execute(guest, command, no_stdin)
        await asyncio.gather(*guest.tasks)
        return answer

    answer = asyncio.run(run())
    return answer.code, answer.out.decode(), answer.err.decode()
