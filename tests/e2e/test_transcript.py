"""One user on a simulated and on a real server: clawdet must send both the same, and be told the same.

So that what the tests of the simulated server prove stays true of a real one.
"""

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import paramiko
import pytest
from cryptography import x509

from clawdet_cli import bootstrap
from tests.e2e.operator import Operator

pytestmark = pytest.mark.real

USER = "transcript"

RECORDER = """
import itertools, json, sys
from clawdet_cli.__main__ import main
from clawdet_cli.adapters.ssh import Ssh

file, original, numbers = sys.argv[1], Ssh.run, itertools.count()

def run(self, command, **options):
    # By their beginning: one is answered while others are asked.
    number = next(numbers)
    result = original(self, command, **options)
    with open(file, "a") as lines:
        lines.write(json.dumps([number, command, result.code, result.out, result.err]) + "\\n")
    return result

Ssh.run = run
sys.argv = ["clawdet", *sys.argv[2:]]
main()
"""
"""clawdet, unchanged but for a copy of every exchange."""

FOREIGN = [
    "openclaw --version && systemctl is-active openclaw-gateway",
    bootstrap.installed("nonce", "short"),
    bootstrap.installed("certificate-request", "nodots"),
    bootstrap.start("configure", "/run/clawdet/missing"),
    bootstrap.follow("configure", 0),
]
"""What clawdet itself would only send when something is wrong."""


@dataclass(frozen=True)
class Exchange:
    """A command and its answer, without what differs from run to run."""

    command: str
    code: int
    out: Any
    err: Any


@pytest.fixture
def unhurried_sandbox(tmp_path: Path, cache: Path) -> Iterator[Operator]:
    """A sandbox whose simulated servers take their time, so that a configuration waits for the installation."""
    operator = Operator(tmp_path / "unhurried", cache)
    up = operator.clawdet("sandbox", "up", "--servers", "simulated", "--boot-seconds", "2")
    assert up.code == 0, up.err
    yield operator
    down = operator.clawdet("sandbox", "down", "--yes")
    assert down.code == 0, down.err


def test_a_simulated_server_says_what_a_real_one_says(
    unhurried_sandbox: Operator, real_sandbox: Operator, tmp_path: Path
) -> None:
    simulated, real = (
        provisioned(operator, tmp_path / name)
        for operator, name in ((unhurried_sandbox, "simulated"), (real_sandbox, "real"))
    )
    assert [exchange.command for exchange in simulated] == [exchange.command for exchange in real]
    assert [pair for pair in zip(simulated, real, strict=True) if pair[0] != pair[1]] == []


def provisioned(operator: Operator, file: Path) -> list[Exchange]:
    """Provision and destroy, and give what was said over SSH meanwhile."""
    try:
        command = ["provision", USER, "--sandbox", "--yes", "--json"]
        document = recorded(operator, file, command)["instance"]
        said = [*read(file), *(ask(operator, document["ipv4"], one) for one in FOREIGN)]
    finally:
        operator.clawdet("destroy", USER, "--sandbox", "--yes")
    return list(normalised(said))


def recorded(operator: Operator, file: Path, arguments: Sequence[str]) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", RECORDER, str(file), *arguments],
        env=operator.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def read(file: Path) -> list[tuple[str, int, str, str]]:
    numbered = sorted((json.loads(line) for line in file.read_text().splitlines()), key=itemgetter(0))
    return [tuple(exchange) for _, *exchange in numbered]


def ask(operator: Operator, ipv4: str, command: str) -> tuple[str, int, str, str]:
    """Run a command as a client that knows nothing of clawdet."""
    info = operator.info()
    dialled = json.loads(Path(info["dial_file"]).read_text()) if info["dial_file"] else {}
    host, _, port = dialled.get(f"{ipv4}:22", f"{ipv4}:22").rpartition(":")
    with paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())  # that clawdet pins it is tested elsewhere
        client.connect(
            host, int(port), "root", key_filename=info["ssh_key_file"], look_for_keys=False, allow_agent=False
        )
        stdin, out, err = client.exec_command(command, timeout=60)
        stdin.channel.shutdown_write()
        said = out.read().decode(), err.read().decode()
        return command, out.channel.recv_exit_status(), *said


def normalised(said: Iterable[tuple[str, int, str, str]]) -> Iterable[Exchange]:
    shaped = [(shape(command), code, out, err) for command, code, out, err in said]
    # How often and when a phase is looked at depends on how long it takes; what it says in all, until it is started
    # anew, does not.
    for number, (command, code, out, err) in enumerate(shaped):
        if not command.startswith("follow"):
            yield Exchange(command, code, READERS.get(command.split()[0], kinds)(out), kinds(err))
            continue
        if command in since_the_last_start(command, shaped[:number]):
            continue
        end = next((n for n, one in enumerate(shaped[number:], number) if is_start(command, one[0])), len(shaped))
        yield followed(command, [one for one in shaped[number:end] if one[0] == command])


def is_start(follow: str, command: str) -> bool:
    return command.endswith("echo started") and f"clawdet-{follow.split()[1]}.service" in command


def since_the_last_start(follow: str, shaped: Sequence[tuple[str, int, str, str]]) -> set[str]:
    return {one[0] for one in itertools.takewhile(lambda one: not is_start(follow, one[0]), reversed(shaped))}


def shape(command: str) -> str:
    """Name a command of clawdet, with what differs from run to run taken out."""
    command = re.sub(r"/run/clawdet/[0-9a-z]+", "FOLDER", command)
    command = re.sub(r"\b[0-9a-f]{32}\b", "MARK", command)
    if match := re.match(r"p=\$\(systemctl show -P MainPID clawdet-(\w+)\.service", command):
        return f"follow {match[1]}"
    if match := re.fullmatch(re.escape(f"/bin/bash {bootstrap.INSTALLED_SCRIPT} ") + r"(\S+)(.*)", command):
        return f"{match[1]} {'ARGUMENT' if match[2] else ''}".strip()
    return command


def followed(command: str, answers: Sequence[tuple[str, int, str, str]]) -> Exchange:
    log, state = "", None
    for _, code, out, _ in answers:
        assert code == 0
        state, news = bootstrap.parse_follow(out)
        log += news
    assert state is not None
    ended = sorted(item for item in state.text.split() if not item.startswith("Offset="))
    lines = [progress(line) for line in log.splitlines() if line.startswith("@")]
    return Exchange(command, 0, (ended, lines or [kind(line) for line in log.splitlines()]), "")


def progress(line: str) -> str:
    """Give a progress line without its times and digests."""
    line = re.sub(r"(@step done \S+) \d+", r"\1 MILLISECONDS", line)
    return re.sub(r" (address|certificate_sha256)=\S+", r" \1=VALUE", line)


def kinds(text: str) -> list[str]:
    # cloud-init prints a dot for each look while one waits for it
    return [kind(line) for line in text.splitlines() if line.strip(".")]


def kind(line: str) -> str:
    """Give a line without the parts that are a machine's own."""
    line = re.sub(r"/run/clawdet/[0-9a-z]+", "FOLDER", line)
    line = re.sub(r"\b[0-9a-f]{32,}\b", "HEX", line)
    line = re.sub(r"\bssh-ed25519 AAAA[A-Za-z0-9+/]{64}", "KEY", line)
    return re.sub(r" \([0-9a-f]{7,}\)", "", line)  # OpenClaw's own commit


def report(text: str) -> list[str]:
    own = {
        "address": r"\d+\.\d+\.\d+\.\d+",
        "os": r"[a-z]+-[0-9.]+",
        "certificate_expires": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
        "openclaw_active_seconds": r"\d+",
    }
    lines = []
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name in own and re.fullmatch(own[name], value):
            value = "OF ITS KIND"
        lines.append(kind(f"{name}={value}"))
    return lines


def request(text: str) -> Any:
    if not text:
        return None
    csr = x509.load_pem_x509_csr(text.encode())
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return csr.subject.rfc4514_string(), names.get_values_for_type(x509.DNSName), text.splitlines()[0], text[-1]


READERS: dict[str, Callable[[str], Any]] = {"report": report, "certificate-request": request}
