"""The first two things that an operator ever ran against a new VPS: ssh, and `curl -I`.

By default against an instance in the sandbox. Against any real one:

    CLAWDET_VALIDATE_SSH='root@203.0.113.7' CLAWDET_VALIDATE_URL='https://alice.example.com/' \
        pytest tests/e2e/test_vps_validation.py

CLAWDET_VALIDATE_SSH may hold further OpenSSH options before the address.
"""

import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence

import pytest

from tests.e2e.operator import Operator

pytestmark = pytest.mark.real


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def target(
    request: pytest.FixtureRequest,
    guest: str,  # noqa: ARG001  # pytest must see that what is asked for below depends on it
) -> Iterator[tuple[list[str], list[str]]]:
    """The OpenSSH arguments and the curl arguments that reach the instance."""
    if "CLAWDET_VALIDATE_SSH" in os.environ:
        yield shlex.split(os.environ["CLAWDET_VALIDATE_SSH"]), [os.environ["CLAWDET_VALIDATE_URL"]]
        return
    operator: Operator = request.getfixturevalue("real_sandbox")
    said = operator.clawdet("provision", "valid", "--sandbox", "--yes", "--json", "--openclaw-version", "2026.9.2")
    assert said.code == 0, said.err[-4000:]
    instance, info = said.document["instance"], operator.info()
    host = instance["url"].removeprefix("https://").rstrip("/")
    ip, _, port = info["edge_address"].rpartition(":")
    known = operator.state / "sandbox" / "ssh" / f"known_hosts-{instance['server_id']}"
    operator.clawdet("ssh", "valid", "--sandbox", "--", "true")
    yield (
        [
            f"-oUserKnownHostsFile={known}",
            f"-oHostKeyAlias=clawdet-{instance['server_id']}",
            f"-i{info['ssh_key_file']}",
            f"root@{instance['ipv4']}",
        ],
        ["--cacert", info["ca_file"], "--resolve", f"{host}:{port}:{ip}", f"https://{host}:{port}/"],
    )
    operator.clawdet("destroy", "valid", "--sandbox", "--yes")


def test_openclaw_is_installed_and_its_unit_is_active(target: tuple[list[str], list[str]]) -> None:
    command = "openclaw --version && systemctl is-active openclaw-gateway"
    version, state = _run(["ssh", "-oBatchMode=yes", *target[0], command]).splitlines()
    assert "2026." in version
    assert state == "active"


def test_the_landing_page_answers(target: tuple[list[str], list[str]]) -> None:
    head = _run(["curl", "-sS", "-I", *target[1]])
    assert head.splitlines()[0].split()[1] == "200"
    assert "text/html" in head.lower()
