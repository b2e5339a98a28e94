"""The product whole: a real machine, the real OpenClaw, looked at by clients that know nothing of clawdet.

Installs packages from the registries, through the machine's own network.
"""

import base64
import contextlib
import hashlib
import json
import re
import shutil
import socket
import sqlite3
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.e2e.browser import Browser, browser
from tests.e2e.device import Device
from tests.e2e.operator import Operator
from tests.e2e.pairing import refused_until_approved

pytestmark = pytest.mark.real

CHECKS = ["server", "dns", "openclaw", "gateway", "landing_page", "recorded"]
KEY = "sk-ant-canary-0123456789abcdef"
"""A provider's key that is none; it must be found in one file of the VPS and nowhere else."""


class Instance:
    """A provisioned instance, and the ways to it that any client has."""

    def __init__(
        self, operator: Operator, document: dict[str, Any], command_lines: set[bytes], events: str = ""
    ) -> None:
        self.operator = operator
        self.command_lines = command_lines
        found = [json.loads(line) for line in events.splitlines()]
        steps = [one for one in found if one["kind"] == "step_finished" and one["stage"] != "verify"]
        self.steps = {one["step"]: one["status"] for one in steps}
        self.document = document
        self.info = operator.info()
        self.user = str(document["user"])
        self.host = str(document["url"]).removeprefix("https://").rstrip("/")
        self.edge_ip, _, self.edge_port = self.info["edge_address"].rpartition(":")

    def ssh(self, command: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
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
            input=stdin,
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


@contextlib.contextmanager
def watched_processes() -> Iterator[set[bytes]]:
    """Collect the command lines of all processes of this machine, those of its servers included."""
    seen: set[bytes] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen.add(entry.read_bytes())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        over.set()
        watching.join()


@pytest.fixture(scope="module")
def demo(real_sandbox: Operator) -> Iterator[Instance]:
    """The instance `demo`, provisioned once for all tests of this file, with a provider's key."""
    with watched_processes() as command_lines:
        said = real_sandbox.clawdet(
            "provision", "demo", "--sandbox", "--yes", "--json", "--events", env={"ANTHROPIC_API_KEY": KEY}
        )
    assert said.code == 0, said.err[-4000:]
    yield Instance(real_sandbox, said.document["instance"], command_lines, said.err)
    gone = real_sandbox.clawdet("destroy", "demo", "--sandbox", "--yes", "--json")
    assert gone.code == 0, gone.err
    assert real_sandbox.holdings() == (0, 0, 0)


def test_it_is_complete_and_all_six_checks_hold(demo: Instance) -> None:
    assert demo.document["status"] == "complete"
    assert demo.document["sandbox"] is True
    assert demo.document["url"] == "https://demo.clawdet.test/"
    assert [check["name"] for check in demo.document["checks"]] == CHECKS
    assert all(check["ok"] and check["evidence"] for check in demo.document["checks"])
    assert [stage["status"] for stage in demo.document["stages"]] == ["done"] * 12
    assert all(stage["seconds"] >= 0 for stage in demo.document["stages"])


def test_the_gateway_started_with_its_user(demo: Instance) -> None:
    told = {step: demo.steps[step] for step in ("gateway", "gateway-start", "gateway-config", "gateway-reload")}
    assert told == {
        "gateway": "skipped",
        "gateway-start": "done",
        "gateway-config": "skipped",
        "gateway-reload": "skipped",
    }


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


@pytest.fixture
def chromium(demo: Instance, tmp_path: Path) -> Iterator[Browser]:
    """A browser that can visit the instance, and has not been there."""
    if shutil.which("chromium") is None:
        pytest.skip("needs the package chromium")
    trust = ssl.create_default_context(cafile=demo.info["ca_file"])
    with (
        socket.create_connection((demo.edge_ip, int(demo.edge_port)), timeout=20) as plain,
        trust.wrap_socket(plain, server_hostname=demo.host) as stream,
    ):
        leaf = x509.load_der_x509_certificate(stream.getpeercert(binary_form=True) or b"")
    key = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key_hash = base64.b64encode(hashlib.sha256(key).digest()).decode()
    with browser(tmp_path / "profile", demo.host, demo.info["edge_address"], key_hash) as started:
        yield started


def test_a_browser_shows_that_the_gateway_is_up_and_what_it_asks_for(demo: Instance, chromium: Browser) -> None:
    chromium.open(f"https://{demo.host}/")
    chromium.wait_for("The gateway is up")
    chromium.open(f"https://{demo.host}/app/")
    chromium.wait_for("expects its token")


def test_a_browser_with_the_token_gets_in_once_it_was_approved(demo: Instance, chromium: Browser) -> None:
    token = demo.operator.clawdet("token", "demo", "--sandbox", "--json").document["token"]
    chromium.open(f"https://{demo.host}/app/#token={token}")
    shown = chromium.wait_for("Approve this browser")
    waiting = demo.operator.clawdet("approve", "demo", "--sandbox", "--json").document["devices"]["pending"]
    assert [device["client"] for device in waiting] == ["openclaw-control-ui"]
    assert waiting[0]["request_id"] in shown
    assert "Waiting for approval" in chromium.text()
    approved = demo.operator.clawdet("approve", "demo", waiting[0]["request_id"], "--sandbox")
    assert approved.code == 0, approved.err
    assert "is let in" in approved.out
    shown = chromium.wait_for("Skip to main content")  # only the interface itself begins with this link
    assert "ask your user" not in shown, "what IDENTITY.md tells the assistant is taken for its name"
    listed = demo.operator.clawdet("approve", "demo", "--sandbox")
    assert "Nobody waits" in listed.out
    assert f"device {waiting[0]['device_id'][:12]}" in listed.out


def test_a_device_is_refused_until_it_is_approved_and_connected_then(demo: Instance) -> None:
    token = demo.operator.clawdet("token", "demo", "--sandbox", "--json").document["token"]
    device = Device(demo.host, demo.info["edge_address"], demo.info["ca_file"])
    refused_until_approved(demo.operator, "demo", device, token)


def test_the_gateway_wants_its_token(demo: Instance) -> None:
    token = demo.operator.clawdet("token", "demo", "--sandbox", "--json").document["token"]
    path = "/app/control-ui-config.json"
    assert demo.status_of(path) == "401"
    assert demo.status_of(path, "-H", f"Authorization: Bearer {token}") == "200"
    assert token not in demo.curl("/")


@pytest.mark.parametrize("url", ["https://{}/app/", "http://{}/app/", "http://{}:18789/healthz"])
def test_the_vps_answers_nobody_past_the_edge(url: str, demo: Instance) -> None:
    where = url.format(demo.document["ipv4"])
    command = ["curl", "-sk", "--max-time", "2", "-H", f"Host: {demo.host}", where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode in {7, 28}, done.stdout) == (True, ""), done


def test_caddy_has_nothing_for_another_host_and_nothing_of_the_gateway_over_plain_http(demo: Instance) -> None:
    own = "$(ip -4 -o route get 192.0.2.1 | sed -n 's/.* src \\([0-9.]*\\).*/\\1/p')"
    curl = "curl --noproxy '*' -sk -o /dev/null -w '%{http_code} %{redirect_url}'"
    assert demo.ssh(f"{curl} https://{own}/app/").stdout.split() == ["000"]
    plain = demo.ssh(f"{curl} -H 'Host: {demo.host}' http://{own}/app/control-ui-config.json").stdout.split()
    assert plain == ["308", f"https://{demo.host}/app/control-ui-config.json"]


def test_only_root_may_ask_the_metadata_service(demo: Instance) -> None:
    for address in ("169.254.169.254", "[fe80::a9fe:a9fe%25eth0]"):
        ask = f"curl --noproxy '*' -s --max-time 5 http://{address}/hetzner/v1/userdata"
        assert "ed25519_private" in demo.ssh(f"{ask} | base64 -d | gunzip").stdout
        for user in ("openclaw", "caddy", "nobody"):
            refused = demo.ssh(f"setpriv --reuid {user} --clear-groups {ask}")
            # By curl's exit codes: refused, or for a link-local address, where nothing can be told, timed out.
            assert (refused.returncode in {7, 28}, refused.stdout) == (True, ""), user
    assert demo.ssh("systemctl is-enabled clawdet-metadata && systemctl is-active clawdet-metadata").stdout.split() == [
        "enabled",
        "active",
    ]


def test_the_host_key_that_was_sent_in_user_data_is_worth_nothing_any_more(demo: Instance) -> None:
    sent = demo.ssh("gunzip </var/lib/cloud/instance/user-data.txt").stdout.partition("\n")[2]
    public = json.loads(sent)["ssh_keys"]["ed25519_public"]
    shown = demo.ssh("cat /etc/ssh/ssh_host_ed25519_key.pub; ls /etc/ssh").stdout.splitlines()
    assert shown[0].startswith("ssh-ed25519 ")
    assert shown[0].split()[1] != public.split()[1]
    assert not [name for name in shown if name.startswith("clawdet_next") or "rsa_key" in name]
    with sqlite3.connect(f"file:{demo.info['state_file']}?mode=ro", uri=True) as database:
        pinned = database.execute("SELECT host_key, next_host_key FROM instances WHERE user = 'demo'").fetchone()
    database.close()
    assert pinned == (" ".join(shown[0].split()[:2]), None)


def test_what_was_installed_is_recorded_with_its_digests(demo: Instance) -> None:
    installed = demo.document["installed"]
    lock = f"/opt/openclaw/{installed['openclaw_version']}/package-lock.json"
    digests = demo.ssh(f"sha256sum /usr/local/bin/node /usr/local/bin/caddy {lock} | cut -d ' ' -f 1").stdout.split()
    assert [installed[name] for name in ("node_sha256", "caddy_sha256", "lock_sha256")] == digests
    said = demo.ssh("openclaw --version; node --version; caddy version").stdout
    assert all(installed[f"{name}_version"] in said for name in ("openclaw", "node", "caddy"))


def test_openclaws_own_audit_finds_nothing(demo: Instance) -> None:
    said = demo.ssh("openclaw security audit --json")
    summary = json.loads(said.stdout)["summary"]
    assert (summary["critical"], summary["warn"]) == (0, 0), said.stdout


@pytest.mark.parametrize("unit", ["openclaw-gateway", "caddy", "clawdet-metadata", "openclaw-gateway-refresh"])
def test_its_services_are_hardened(unit: str, demo: Instance) -> None:
    said = demo.ssh(f"systemd-analyze security --no-pager {unit}").stdout
    score = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert score is not None, said
    assert float(score[1]) <= 2.1, said


def test_nobody_logs_in_with_a_password_and_root_with_a_key_alone(demo: Instance) -> None:
    settings = demo.ssh("sshd -T").stdout.splitlines()
    wanted = {"passwordauthentication no", "kbdinteractiveauthentication no", "permitrootlogin without-password"}
    assert wanted <= set(settings)
    offered = subprocess.run(
        [
            *("ssh", "-F/dev/null", "-oBatchMode=yes", "-oPreferredAuthentications=none", "-v"),
            "-oStrictHostKeyChecking=accept-new",
            f"-oUserKnownHostsFile={demo.operator.state}/foreign_known_hosts",
            f"root@{demo.document['ipv4']}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Authentications that can continue: publickey\n" in offered.stderr.replace("\r", "")


def test_security_updates_come_by_themselves(demo: Instance) -> None:
    said = demo.ssh("apt-config dump | grep -E 'Periodic|Automatic-Reboot '; command -v unattended-upgrade").stdout
    assert 'APT::Periodic::Unattended-Upgrade "1";' in said
    assert 'APT::Periodic::Update-Package-Lists "1";' in said
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in said
    assert said.splitlines()[-1] == "/usr/bin/unattended-upgrade"
    timers = "apt-daily.timer apt-daily-upgrade.timer"
    shown = demo.ssh(f"systemctl is-enabled {timers}; systemctl is-active {timers}; systemctl is-active apt-daily")
    assert shown.stdout.split() == ["enabled", "enabled", "active", "active", "inactive"]


def test_security_updates_come_back_where_somebody_turned_them_off(demo: Instance) -> None:
    timers = "apt-daily.timer apt-daily-upgrade.timer"
    assert demo.ssh(f"systemctl disable --now {timers} && systemctl mask {timers}").returncode == 0
    functions = "sed '/^case \"$VERB:/,$d' /usr/local/lib/clawdet/provision-openclaw.sh"
    step = "SCRATCH=$(mktemp -d); if have_updates; then exit 9; fi; do_updates; have_updates"
    mended = demo.ssh(f"{{ {functions}; echo '{step}'; }} | bash")
    assert mended.returncode == 0, mended
    shown = demo.ssh(f"systemctl is-enabled {timers}; systemctl is-active {timers}")
    assert shown.stdout.split() == ["enabled", "enabled", "active", "active"]


def test_openclaw_runs_as_a_user_who_is_nobody_else_and_may_not_become_root(demo: Instance) -> None:
    said = demo.ssh("id openclaw; sudo -l -U openclaw; find / -xdev -perm -4000 -user openclaw").stdout
    assert "groups=" in said
    assert said.split("groups=")[1].splitlines()[0].count("(") == 1
    assert "is not allowed to run sudo" in said


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


def secrets_of(demo: Instance) -> dict[str, str]:
    """Give every secret of the instance, with where on the VPS it may be; empty means nowhere."""
    token = demo.operator.clawdet("token", "demo", "--sandbox", "--json").document["token"]
    own = "/var/lib/openclaw/.openclaw/"
    return {KEY: own, token: own, demo.info["hetzner_token"]: "", demo.info["cloudflare_token"]: ""}


def test_secrets_are_where_openclaw_needs_them_and_nowhere_else_on_the_vps(demo: Instance) -> None:
    for secret, place in secrets_of(demo).items():
        # By standard input: an argument would be found in the list of processes.
        roots = "$(find / -mindepth 1 -maxdepth 1 -type d ! -name proc ! -name sys)"
        found = demo.ssh(f"grep -rlF -f - {roots} 2>/dev/null", stdin=secret).stdout.split()
        assert bool(found) is bool(place)
        for path in found:
            assert place, path
            assert path.startswith(place), path
            assert demo.ssh(f"stat -c '%U %a' {path}").stdout.split() == ["openclaw", "600"], path
        assert demo.ssh("journalctl --no-pager --all | grep -cF -f -", stdin=secret).stdout.strip() == "0"


def test_openclaw_keeps_its_compiled_programs_where_only_it_can_write(demo: Instance) -> None:
    demo.ssh("openclaw --version")
    found = demo.ssh("find /var/lib/openclaw/.cache/node -printf '%y %u %m\n' | sort -u").stdout.splitlines()
    assert set(found) == {"d openclaw 700", "f openclaw 600"}


def test_openclaw_is_started_once(demo: Instance) -> None:
    main = demo.ssh("systemctl show -P MainPID openclaw-gateway").stdout.strip()
    assert f"pid={main}," in demo.ssh("ss -ltnpH 'sport = :18789'").stdout


def test_no_command_line_ever_held_one(demo: Instance) -> None:
    assert any(b"provision-openclaw.sh" in line for line in demo.command_lines), "the VPS's processes were not seen"
    for secret in secrets_of(demo):
        assert not [line for line in demo.command_lines if secret.encode() in line]


def test_nothing_that_the_edge_serves_holds_one(demo: Instance) -> None:
    start, ui = demo.curl("/"), demo.curl("/app/")
    assets = re.findall(r'(?:src|href)="(?:\./|/app/)?(assets/[^"]+)"', ui)
    assert assets
    bodies = [start, ui, *(demo.curl(f"/app/{asset}") for asset in assets[:5])]
    bodies += [
        demo.curl(path) for path in ("/healthz", "/.well-known/clawdet-nonce", "/.env", "/app/control-ui-config.json")
    ]
    for secret in secrets_of(demo):
        assert not [body[:80] for body in bodies if secret in body]


def test_with_origin_pulls_caddy_answers_the_edge_alone(demo: Instance) -> None:
    operator, ca = demo.operator, demo.info["origin_pull_ca_file"]
    without = f"curl -sk -o /dev/null -w '%{{http_code}}' --resolve {demo.host}:443:$(hostname -I | cut -d ' ' -f 1)"
    operator.control("cloudflare", "PATCH", f"zones/{demo.info['zone']}", {"tls_client_auth": "on"})
    try:
        on = operator.clawdet("provision", "demo", "--sandbox", "--yes", "--origin-pull-ca", ca)
        assert on.code == 0, on.err
        assert demo.status_of("/healthz") == "200"
        assert demo.ssh(f"{without} https://{demo.host}/").stdout == "000"
        off = operator.clawdet("provision", "demo", "--sandbox", "--yes", "--origin-pull-ca", "none")
        assert off.code == 0, off.err
        assert demo.ssh(f"{without} https://{demo.host}/").stdout == "200"
    finally:
        operator.control("cloudflare", "PATCH", f"zones/{demo.info['zone']}", {"tls_client_auth": "off"})


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
