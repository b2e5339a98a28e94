"""Secrets are followed through a whole life of an instance: in every word that is said, every file that is left."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.e2e.operator import Operator

KEYS = {
    "ANTHROPIC_API_KEY": "sk-ant-canary-11112222333344445555",
    "OPENAI_API_KEY": "sk-canary-openai-66667777888899990000",
    "XAI_API_KEY": "xai-canary-aaaabbbbccccddddeeee",
    "OPENROUTER_API_KEY": "sk-or-canary-ffff0000ffff1111ffff",
}
COMMANDS = (
    ("provision", "alice", "--yes", "--events", "--json"),
    ("provision", "alice", "--yes", "--debug"),
    ("verify", "alice", "--json"),
    ("status", "alice", "--live", "--events"),
    ("approve", "alice"),
    ("doctor",),
    ("reconcile", "--fix", "--json"),
    ("firewall", "refresh"),
    ("state", "export", "FILE"),
    ("state", "backup", "COPY"),
    ("destroy", "alice", "--yes"),
)


@dataclass(frozen=True)
class Life:
    """What was said, left and handed on in it, and the secrets that it knew."""

    words: list[str]
    files: dict[Path, bytes]
    environments: list[bytes]
    secrets: list[str]


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Life:
    """Run all commands with canaries for keys."""
    operator = Operator(tmp_path_factory.mktemp("canaries"), cache)
    up = operator.clawdet("sandbox", "up", "--servers", "simulated", "--boot-seconds", "0", env=KEYS)
    assert up.code == 0, up.err
    info = operator.info()
    words, token = [up.out + up.err], ""
    environments: list[bytes] = []
    try:
        for command in COMMANDS:
            arguments = [str(operator.state / word) if word.isupper() else word for word in command]
            ended = operator.clawdet(*arguments, "--sandbox", env=KEYS)
            assert ended.code == 0, (command, ended.out, ended.err)
            words.append(ended.out + ended.err)
            if not token:
                token = operator.clawdet("token", "alice", "--sandbox").out.strip()
                pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
                environments = [environment(pid) for pid in pids if str(operator.state) in command_line(pid)]
        failed = replace(operator, known=info).clawdet("verify", "nobody", "--sandbox", "--debug", env=KEYS)
        words.append(failed.out + failed.err)
        files = {
            path: path.read_bytes() for path in operator.state.rglob("*") if path.is_file() and not path.is_socket()
        }
    finally:
        operator.clawdet("sandbox", "down", "--yes")
    secrets = [*KEYS.values(), token, info["hetzner_token"], info["cloudflare_token"]]
    assert all(len(secret) > 20 for secret in secrets)
    return Life(words, files, environments, secrets)


def environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def test_no_command_says_one(life: Life) -> None:
    assert len(life.words) == len(COMMANDS) + 2
    for secret in life.secrets:
        assert [text[:200] for text in life.words if secret in text] == []


def test_no_file_outside_of_the_emulated_clouds_holds_one(life: Life) -> None:
    assert {".log", ".db"} <= {path.suffix for path in life.files}, "run logs and database were not looked at"
    for secret in life.secrets:
        holding = [path for path, content in life.files.items() if secret.encode() in content]
        assert [path for path in holding if "cloud" not in path.parts] == []


def test_no_other_process_was_given_one(life: Life) -> None:
    assert any(b"PYTHONPATH" in one for one in life.environments), "the sandbox's process was not looked at"
    for secret in KEYS.values():
        assert not any(secret.encode() in one for one in life.environments)
