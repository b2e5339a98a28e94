"""One small server with everything that an order of clawdet's has: from the order to the firewall's release."""

import io
import re
import time
from functools import partial
from typing import Any

import paramiko

from clawdet_cli import bootstrap
from clawdet_cli.adapters import ssh_keys
from clawdet_cli.stages.user_data import user_data
from tests.live.accounts import NOBODYS_ID
from tests.live.api import Answer, ApiError
from tests.live.journal import Thing
from tests.live.run import Offer, Run

RUNNING_SECONDS, SSH_SECONDS, GONE_SECONDS, RELEASE_SECONDS = 300.0, 180.0, 120.0, 180.0
MINUTE = 60.0
ANYBODY = ["0.0.0.0/0", "::/0"]
IMAGE = "ubuntu-24.04"
MIB = 1024 * 1024
MAKE_READ_ONLY = "set HCLOUD_READONLY_TOKEN to a token of the same project with Read alone"
NOT_SIMULATED = "a simulated server does not know this command"

METADATA = {
    "guest.metadata-over-ipv4": "curl -s -m 10 -w ' %{http_code}' http://169.254.169.254/hetzner/v1/metadata/instance-id",
    "guest.metadata-over-ipv6": "nic=$(ip -o route show default | sed 's/.* dev //;s/ .*//;q'); "
    'curl -g -s -m 10 -w " %{http_code}" "http://[fe80::a9fe:a9fe%25$nic]/hetzner/v1/metadata/instance-id"',
}
GUEST = {
    "guest.ssh-by-socket": ("systemctl is-enabled ssh.socket ssh.service", r"enabled\s+disabled"),
    "guest.needrestart-installed": ("dpkg-query -W -f '${db:Status-Status}' needrestart", "installed"),
    # In KiB: 3.5 to 4 GiB.
    "guest.memory": ("sed -n 's/^MemTotal: *//p' /proc/meminfo", r"(36[7-9]\d{4}|3[7-9]\d{5}|4[01]\d{5}) kB"),
}
"""What is asked of the guest, and the whole of the answer, as a pattern."""


def look(run: Run) -> None:
    """Order a server, look at it, delete it, and watch what it leaves."""
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(ssh_keys.make_host_key().private.reveal()))
    public = f"{key.get_name()} {key.get_base64()}"
    with run.step("an SSH key and a firewall, and requests that are refused"):
        key_id = _make(run, "ssh_key", "/ssh_keys", {"name": run.name, "public_key": public, "labels": run.labels})
        rule = {"direction": "in", "protocol": "tcp", "port": "22", "source_ips": ANYBODY}
        firewall_id = _make(run, "firewall", "/firewalls", {"name": run.name, "labels": run.labels, "rules": [rule]})
        _refusals(run, public)
    host_key = ssh_keys.make_host_key()
    server = _order(run, key_id, firewall_id, host_key)
    path = f"/servers/{server['id']}"
    with run.step("until it runs"):
        server = run.until(partial(_running, run, path), "the server's start", RUNNING_SECONDS)
    behind = [(wall["id"], wall["status"]) for wall in server["public_net"]["firewalls"]]
    run.verdicts.judge(
        "hetzner.firewall-from-birth",
        [(str(number), status) for number, status in behind] == [(firewall_id, "applied")],
        ", ".join(status for _, status in behind) or "no firewall",
    )
    _look_inside(run, server["public_net"]["ipv4"]["ip"], key, host_key.public)
    _delete(run, server, firewall_id)
    with run.step("a read-only token's DELETE"):
        _read_only(run)


def _make(run: Run, kind: str, path: str, body: dict[str, Any]) -> str:
    run.journal.intend(kind, run.name)
    made = run.hetzner.call("POST", path, f"create-{kind}", body=body).must(201).content[kind]
    run.journal.made(kind, run.name, made["id"])
    return str(made["id"])


def _refusals(run: Run, public: str) -> None:
    judge, again = run.verdicts.judge, f"{run.name}-again"
    twice = _refused(run, "ssh_key", {"name": again, "public_key": public, "labels": run.labels}, "ssh-key-twice")
    judge("hetzner.ssh-key-unique", twice.status == 409 and twice.codes == ["uniqueness_error"], twice.said)
    strange = {"name": again, "labels": run.labels, "clawdet_live": True}
    unknown = _refused(run, "firewall", strange, "unknown-field")
    judge("hetzner.unknown-field", unknown.status == 422, unknown.said)
    order = {"name": again, "server_type": "clawdet0", "image": IMAGE, "labels": run.labels}
    no_type = _refused(run, "server", order, "unknown-type")
    judge("hetzner.unknown-type-or-image", no_type.status in {404, 422}, no_type.said)
    large = _refused(
        run, "ssh_key", {"name": f"{again}-large", "public_key": "x" * (4 * MIB), "labels": run.labels}, ""
    )
    judge("hetzner.body-size", large.status == 413, large.said)


def _refused(run: Run, kind: str, body: dict[str, Any], label: str) -> Answer:
    """Send what should be refused; should it be taken after all, it is cleaned up like everything else."""
    run.journal.intend(kind, body["name"])
    answer = run.hetzner.call("POST", f"/{kind}s", label, body=body)
    if 400 <= answer.status < 500:
        run.journal.gone(Thing(kind, body["name"]))
    return answer


def _order(run: Run, key_id: str, firewall_id: str, host_key: Any) -> dict[str, Any]:
    settings = run.place.settings
    values = bootstrap.prepare_input(settings, settings.openclaw_version, "x86")
    order: dict[str, Any] = {
        "name": run.name,
        "image": IMAGE,
        "ssh_keys": [int(key_id)],
        "firewalls": [{"firewall": int(firewall_id)}],
        "labels": run.labels,
        "user_data": user_data(host_key, values).reveal(),
    }
    refused: list[str] = []
    for offer in run.offers:
        with run.step(f"order {offer.type} in {offer.location}"):
            answer = _ask_for(run, order, offer)
        if answer.status == 201:
            break
        if answer.status not in {409, 412, 422}:
            answer.must(201)
        refused.append(f"{offer.type} in {offer.location}: {answer.said}")
    else:
        raise ApiError(f"no server can be had: {'; '.join(refused)}")
    server: dict[str, Any] = answer.content["server"]
    run.journal.made("server", run.name, server["id"])
    public, following = server["public_net"], answer.content["next_actions"]
    parents = [action.get("parent_id") for action in following]
    run.verdicts.judge(
        "hetzner.address-at-once",
        bool(public["ipv4"] and public["ipv6"]) and bool(parents) and None not in parents,
        f"IPv4 {'there' if public['ipv4'] else 'missing'}, IPv6 {'there' if public['ipv6'] else 'missing'}",
    )
    has = "datacenter" in server
    run.verdicts.judge("hetzner.no-datacenter", not has, "has one" if has else "has none")
    return server


def _ask_for(run: Run, order: dict[str, Any], offer: Offer) -> Answer:
    run.journal.intend("server", run.name)
    body = {**order, "server_type": offer.type, "location": offer.location}
    answer = run.hetzner.call("POST", "/servers", body=body)
    kept = {**body, "user_data": f"<{len(order['user_data'])} characters>"}
    run.recorder.exchange(
        "order",
        method="POST",
        path="/servers",
        sent=kept,
        status=answer.status,
        headers=answer.headers,
        body=answer.content,
    )
    return answer


def _running(run: Run, path: str) -> dict[str, Any] | None:
    server: dict[str, Any] = run.hetzner.call("GET", path, "server").must(200).content["server"]
    return server if server["status"] == "running" else None


def _look_inside(run: Run, ipv4: str, key: paramiko.PKey, host_key: str) -> None:
    with run.step("until SSH answers"):
        client, shown = run.until(partial(_connected, run, ipv4, key), "SSH", SSH_SECONDS)
    with client, run.step("metadata over IPv4 and IPv6, sshd's socket, needrestart, memory"):
        run.verdicts.judge("guest.host-key", shown == host_key, "the injected one" if shown == host_key else "another")
        for name, command in METADATA.items():
            code, said = _execute(client, command)
            if code == 127:
                run.verdicts.not_tried(name, NOT_SIMULATED)
            else:
                run.verdicts.judge(name, said.endswith(" 200"), said[-80:] or f"curl ended with {code}")
        for name, (command, wanted) in GUEST.items():
            code, said = _execute(client, command)
            if code == 127:
                run.verdicts.not_tried(name, NOT_SIMULATED)
            else:
                shown = ", ".join(said.split("\n")).strip(", ") or f"nothing, and ended with {code}"
                run.verdicts.judge(name, re.fullmatch(wanted, said.strip()) is not None, shown)


def _connected(run: Run, ipv4: str, key: paramiko.PKey) -> tuple[paramiko.SSHClient, str] | None:
    client = paramiko.SSHClient()
    # Which key it shows is what is tried; it is compared before anything is believed.
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())  # noqa: S507  # see above
    host, port = run.place.settings.endpoints.dial(ipv4, 22)
    try:
        client.connect(host, port, "root", pkey=key, timeout=10, allow_agent=False, look_for_keys=False)
    except (OSError, EOFError, paramiko.SSHException):
        client.close()
        return None
    transport = client.get_transport()
    assert transport is not None
    shown = transport.get_remote_server_key()
    return client, f"{shown.get_name()} {shown.get_base64()}"


def _execute(client: paramiko.SSHClient, command: str) -> tuple[int, str]:
    _, out, _ = client.exec_command(command, timeout=30)
    said = out.read(2000).decode(errors="replace")
    return out.channel.recv_exit_status(), said


def _delete(run: Run, server: dict[str, Any], firewall_id: str) -> None:
    call, judge = run.hetzner.call, run.verdicts.judge
    addresses = [server["public_net"][version]["id"] for version in ("ipv4", "ipv6") if server["public_net"][version]]
    if addresses:
        assigned = call("DELETE", f"/primary_ips/{addresses[0]}", "delete-assigned-address")
        judge("hetzner.must-be-unassigned", assigned.status in {409, 422}, assigned.said)
    with run.step("delete the server"):
        call("DELETE", f"/servers/{server['id']}", "delete-server").must(200)
        run.until(lambda: _absent(run, f"/servers/{server['id']}", "deleted-server"), "the deletion", GONE_SECONDS)
    gone = time.monotonic()
    with run.step("until the firewall lets go"):
        refused, listed = _release(run, firewall_id, server["id"], gone)
    judge("hetzner.firewall-release", refused > 0, f"refused until {refused:.1f} s after the server was gone")
    judge("hetzner.firewall-applied-to", listed > 0, f"listed until {listed:.1f} s after the server was gone")
    for number in addresses:
        path = f"/primary_ips/{number}"
        run.until(partial(_absent, run, path, "deleted-address"), "the addresses' release", GONE_SECONDS)
    seconds = time.monotonic() - gone
    judge("hetzner.address-release", seconds <= MINUTE, f"gone {seconds:.1f} s after the server, at the latest")


def _release(run: Run, firewall_id: str, server_id: int, gone: float) -> tuple[float, float]:
    """Delete the firewall, again and again; return until when it was refused, and until when it named the server."""
    path, refused, listed = f"/firewalls/{firewall_id}", 0.0, 0.0

    def deleted() -> bool | None:
        nonlocal refused, listed
        applied = run.hetzner.call("GET", path, "released-firewall").must(200).content["firewall"]["applied_to"]
        if any(one.get("server", {}).get("id") == server_id for one in applied):
            listed = time.monotonic() - gone
        answer = run.hetzner.call("DELETE", path, "delete-firewall").must(204, 409, 422, 423)
        if answer.status != 204:
            refused = time.monotonic() - gone
        return answer.status == 204 or None

    run.until(deleted, "the firewall's release", RELEASE_SECONDS)
    return refused, listed


def _absent(run: Run, path: str, label: str) -> bool | None:
    return run.hetzner.call("GET", path, label).must(200, 404).status == 404 or None


def _read_only(run: Run) -> None:
    token = run.place.read_only_token
    if token is None:
        run.verdicts.not_tried("hetzner.read-only-token", MAKE_READ_ONLY)
        return
    answer = run.hetzner.call("DELETE", f"/ssh_keys/{NOBODYS_ID}", "read-only-delete", token=token)
    run.verdicts.judge("hetzner.read-only-token", answer.codes == ["token_readonly"], answer.said)
