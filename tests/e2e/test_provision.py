"""The product whole: a real machine, the real OpenClaw, looked at by clients that know nothing of clawdet.

Installs packages from the registries, through the machine's own network.
"""

import base64
import hashlib
import json
import shutil
import socket
import sqlite3
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from tests.e2e.operator import Operator

pytestmark = pytest.mark.real

CHECKS = ["server", "dns", "openclaw", "gateway", "landing_page", "recorded"]
KEY = "sk-ant-canary-0123456789abcdef"
"""A provider's key that is none; it must be found in one file of the VPS and nowhere else."""


class Instance:
    """A provisioned instance, and the ways to it that any client has."""

    def __init__(self, operator: Operator, document: dict[str, Any]) -> None:
        self.operator = operator
        self.document = document
        self.info = operator.info()
        self.user = str(document["user"])
        self.host = str(document["url"]).removeprefix("https://").rstrip("/")
        self.edge_ip, _, self.edge_port = self.info["edge_address"].rpartition(":")

    def ssh(self, command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command on the VPS with OpenSSH and the key that the sandbox names."""
        return subprocess.run(
            [
                "ssh",
                "-F/dev/null",
                "-oBatchMode=yes",
                # The client knows nothing of the pinned key; that clawdet pins it is tested elsewhere.
                "-oStrictHostKeyChecking=accept-new",
                f"-oUserKnownHostsFile={self.operator.state}/foreign_known_hosts",
                f"-i{self.info['ssh_key_file']}",
                f"root@{self.document['ipv4']}",
                command,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def curl(self, path: str, *options: str) -> str:
        """Ask for a path through the edge with curl."""
        resolve = f"{self.host}:{self.edge_port}:{self.edge_ip}"
        done = subprocess.run(
            [
                "curl",
                "-sS",
                "--cacert",
                self.info["ca_file"],
                "--resolve",
                resolve,
                *options,
                f"https://{self.host}:{self.edge_port}{path}",
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )  # fmt: skip - the command reads as one line
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status_of(self, path: str, *options: str) -> str:
        """Give the HTTP status of a path."""
        return self.curl(path, "-o", "/dev/null", "-w", "%{http_code}", *options)

    def websocket(self, origin: str) -> ClientConnection:
        """Open the gateway's WebSocket through the edge."""
        return connect(
            f"wss://{self.host}:{self.edge_port}/app",
            sock=socket.create_connection((self.edge_ip, int(self.edge_port)), timeout=20),
            origin=Origin(origin),
            ssl=ssl.create_default_context(cafile=self.info["ca_file"]),
            proxy=None,
            open_timeout=20,
        )


@pytest.fixture(scope="module")
def demo(real_sandbox: Operator) -> Iterator[Instance]:
    """The instance `demo`, provisioned once for all tests of this file, with a provider's key."""
    said = real_sandbox.clawdet(
        "provision", "demo", "--sandbox", "--yes", "--json", "--events", env={"ANTHROPIC_API_KEY": KEY}
    )
    assert said.code == 0, said.err[-4000:]
    yield Instance(real_sandbox, said.document["instance"])
    gone = real_sandbox.clawdet("destroy", "demo", "--sandbox", "--yes", "--json")
    assert gone.code == 0, gone.err
    assert real_sandbox.holdings() == (0, 0, 0)


def _read_on(connection: ClientConnection) -> None:
    while True:
        connection.recv(20)


def test_it_is_complete_and_all_six_checks_hold(demo: Instance) -> None:
    assert demo.document["status"] == "complete"
    assert demo.document["sandbox"] is True
    assert demo.document["url"] == "https://demo.clawdet.test/"
    assert [check["name"] for check in demo.document["checks"]] == CHECKS
    assert all(check["ok"] and check["evidence"] for check in demo.document["checks"])
    assert [stage["status"] for stage in demo.document["stages"]] == ["done"] * 9
    assert all(stage["seconds"] >= 0 for stage in demo.document["stages"])


def test_the_clouds_hold_exactly_what_the_document_says(demo: Instance) -> None:
    (server,) = demo.operator.servers()
    assert server["id"] == demo.document["server_id"]
    assert server["public_net"]["ipv4"]["ip"] == demo.document["ipv4"]
    assert server["status"] == "running"
    assert server["labels"]["managed-by"] == "clawdet"
    assert server["labels"]["user"] == "demo"
    (record,) = demo.operator.records()
    assert record["id"] == demo.document["record_id"]
    assert (record["type"], record["name"], record["content"], record["proxied"]) == (
        "A",
        demo.host,
        demo.document["ipv4"],
        True,
    )
    assert record["comment"] == f"clawdet:demo:{server['labels']['run']}"
    (certificate,) = demo.operator.certificates()
    assert certificate["hostnames"] == [demo.host]


def test_openclaw_runs_as_its_own_unprivileged_user(demo: Instance) -> None:
    unit = "systemctl show -P User openclaw-gateway; systemctl show -P NRestarts openclaw-gateway"
    seen = demo.ssh(f"{unit}; id -u openclaw; ss -Hltn 'sport = 18789'")
    user, restarts, uid, *listeners = seen.stdout.split("\n")
    assert (user, restarts) == ("openclaw", "0")
    assert int(uid) > 0
    assert [line.split()[3] for line in listeners if line] in (
        ["127.0.0.1:18789", "[::1]:18789"],
        ["127.0.0.1:18789"],
    )


def test_the_landing_page_says_whose_instance_it_is_and_leads_to_the_gateway(demo: Instance) -> None:
    page = demo.curl("/")
    assert demo.host in page
    assert "/app" in page
    assert demo.status_of("/healthz") == "200"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the package chromium")
def test_a_browser_shows_that_the_gateway_is_up_and_what_it_asks_for(demo: Instance, tmp_path: Path) -> None:
    trust = ssl.create_default_context(cafile=demo.info["ca_file"])
    with (
        socket.create_connection((demo.edge_ip, int(demo.edge_port)), timeout=20) as plain,
        trust.wrap_socket(plain, server_hostname=demo.host) as stream,
    ):
        leaf = x509.load_der_x509_certificate(stream.getpeercert(binary_form=True) or b"")
    key = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def shown(path: str) -> str:
        """Give the page as it stands after its scripts ran."""
        done = subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic"),
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                f"--user-data-dir={tmp_path / 'profile'}",
                f"--host-resolver-rules=MAP {demo.host} {demo.info['edge_address']}",
                f"--ignore-certificate-errors-spki-list={base64.b64encode(hashlib.sha256(key).digest()).decode()}",
                *("--virtual-time-budget=10000", "--dump-dom", f"https://{demo.host}{path}"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.stdout

    assert ">The gateway is up<" in shown("/")  # as an element's text; in the script it stands in quotes
    assert "expects its token" in shown("/app/")


def test_the_gateway_wants_its_token(demo: Instance) -> None:
    token = demo.operator.clawdet("token", "demo", "--sandbox", "--json").document["token"]
    path = "/app/control-ui-config.json"
    assert demo.status_of(path) == "401"
    assert demo.status_of(path, "-H", f"Authorization: Bearer {token}") == "200"
    assert token not in demo.curl("/")


def test_its_websocket_answers_its_own_origin_only(demo: Instance) -> None:
    with demo.websocket(f"https://{demo.host}") as own:
        assert json.loads(own.recv(20))["event"] == "connect.challenge"
    hello = {
        "type": "req",
        "id": "1",
        "method": "connect",
        "params": {
            "minProtocol": 4,
            "maxProtocol": 4,
            "client": {"id": "openclaw-control-ui", "version": "1", "platform": "web", "mode": "ui"},
            "role": "operator",
        },
    }
    with demo.websocket("https://elsewhere.example") as foreign:
        foreign.recv(20)
        foreign.send(json.dumps(hello))
        with pytest.raises(ConnectionClosed) as closed:
            _read_on(foreign)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


def test_the_vps_cannot_be_had_past_the_edge_as_another_host(demo: Instance) -> None:
    """Caddy shows a certificate for its own name only, and nothing of the gateway over plain HTTP."""
    done = subprocess.run(
        ["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", f"https://{demo.document['ipv4']}/app/"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == "000"
    plain = subprocess.run(
        ["curl", "-s", "-H", f"Host: {demo.host}", f"http://{demo.document['ipv4']}/app/control-ui-config.json"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "gateway" not in plain.stdout.lower()


def test_the_database_holds_the_url_and_no_secret(demo: Instance) -> None:
    state_file = Path(demo.info["state_file"])
    with sqlite3.connect(f"file:{state_file}?mode=ro", uri=True) as database:
        row = database.execute("SELECT status, url, server_id FROM instances WHERE user = 'demo'").fetchone()
    database.close()
    assert row == ("complete", "https://demo.clawdet.test/", demo.document["server_id"])
    token = demo.operator.clawdet("token", "demo", "--sandbox", "--json").document["token"]
    secrets = [KEY, token, demo.info["hetzner_token"], demo.info["cloudflare_token"]]
    own = [path for path in state_file.parent.rglob("*") if path.is_file() and "cloud" not in path.parts]
    assert any(path.suffix == ".log" for path in own)
    for path in own:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path


def test_the_providers_key_is_where_openclaw_needs_it_and_nowhere_else(demo: Instance) -> None:
    places = "/etc /run /opt /root /srv /tmp /usr/local /var"
    found = demo.ssh(f"grep -rlF -- {KEY} {places} 2>/dev/null").stdout.split()
    assert found
    for path in found:
        assert path.startswith("/var/lib/openclaw/.openclaw/"), path
        owner = demo.ssh(f"stat -c '%U %a' {path}").stdout.split()
        assert owner == ["openclaw", "600"], path


def test_doing_it_again_changes_nothing(demo: Instance) -> None:
    before = demo.operator.holdings()
    again = demo.operator.clawdet("provision", "demo", "--sandbox", "--yes", "--json")
    assert again.code == 0, again.err
    assert again.document["instance"]["server_id"] == demo.document["server_id"]
    assert demo.operator.holdings() == before == (1, 1, 1)


def test_it_converges_when_somebody_deleted_the_record(demo: Instance) -> None:
    old = demo.operator.records()[0]["id"]
    demo.operator.cloud("cloudflare", f"/zones/{demo.operator.zone_id()}/dns_records/{old}", "DELETE")
    ill = demo.operator.clawdet("verify", "demo", "--sandbox", "--json")
    assert ill.code == 6
    assert {check["name"]: check["ok"] for check in ill.document["instance"]["checks"]}["dns"] is False
    mended = demo.operator.clawdet("provision", "demo", "--sandbox", "--yes", "--json")
    assert mended.code == 0, mended.err
    assert mended.document["instance"]["status"] == "complete"
    (record,) = demo.operator.records()
    assert record["id"] == mended.document["instance"]["record_id"] != old


def test_status_live_and_verify_agree(demo: Instance) -> None:
    for arguments in (["status", "demo", "--live"], ["verify", "demo"], ["status", "demo"]):
        said = demo.operator.clawdet(*arguments, "--sandbox", "--json")
        assert said.code == 0, said.err
        assert all(check["ok"] for check in said.document["instance"]["checks"])
    table = demo.operator.clawdet("status", "--sandbox", "--json")
    assert [instance["user"] for instance in table.document["instances"]] == ["demo"]


def test_clawdet_ssh_uses_openssh_with_the_pinned_key(demo: Instance) -> None:
    said = demo.operator.clawdet("ssh", "demo", "--sandbox", "--", "hostname")
    assert (said.code, said.out) == (0, "clawdet-demo\n"), said.err


def test_a_full_disk_on_the_vps_is_named_and_mended_by_the_same_command(demo: Instance) -> None:
    """Comes last: it takes the installed OpenClaw away and leaves 20 MB for a new one."""
    away = "systemctl stop openclaw-gateway && mv /opt/openclaw /opt/away && mkdir /opt/openclaw"
    assert demo.ssh(f"{away} && mount -t tmpfs -o size=20m tmpfs /opt/openclaw").returncode == 0
    full = demo.operator.clawdet("provision", "demo", "--sandbox", "--yes", "--json")
    assert full.code == 6, full.err
    error = full.document["error"]
    assert "at the step 'openclaw'" in error["what"]
    assert "space" in " ".join([error["what"], *error["details"]]).lower()
    assert "per month" in error["left_behind"][0]
    assert demo.ssh("umount /opt/openclaw && rm -rf /opt/openclaw && mv /opt/away /opt/openclaw").returncode == 0
    mended = demo.operator.clawdet("provision", "demo", "--sandbox", "--yes", "--json")
    assert mended.code == 0, mended.err
    assert demo.operator.holdings() == (1, 1, 1)
