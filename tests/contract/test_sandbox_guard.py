"""The sandbox beside a web page and another user of the machine: what each can send, tried against a running one."""

import http.client
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from clawdet_cli import sandbox
from clawdet_cli.sandbox.guard import LARGEST_REQUEST, TOKEN_HEADER, is_loopback
from clawdet_cli.sandbox.info import Files
from tests.contract.test_sandbox_lifecycle import Box, kill

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes through /proc")

RULE = json.dumps({"kind": "answer", "status": 418, "times": None})
JSON = "application/json"
CLOUDS = ["hetzner", "cloudflare"]
CONTROLS = {
    "hetzner": [
        ("GET", "faults"),
        ("POST", "faults"),
        ("DELETE", "faults"),
        ("GET", "requests"),
        ("DELETE", "requests"),
        ("GET", "knobs"),
        ("PUT", "knobs"),
        ("DELETE", "knobs"),
        ("PUT", "servers/knobs"),
        ("GET", "servers/commands"),
    ],
    "cloudflare": [
        ("GET", "faults"),
        ("POST", "faults"),
        ("GET", "zones"),
        ("POST", "zones"),
        ("PATCH", "zones/clawdet.test"),
        ("POST", "tokens"),
        ("PATCH", "limits"),
        ("PATCH", "certificate_reads"),
        ("PATCH", "refusals"),
        ("PUT", "edge/knobs"),
    ],
}


@pytest.fixture(scope="module")
def info(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sandbox.SandboxInfo]:
    box = Box(tmp_path_factory.mktemp("guarded"))
    yield box.up()
    box.down()


def ask(
    info: sandbox.SandboxInfo,
    cloud: str,
    method: str,
    path: str,
    *,
    body: str | None = None,
    host: str | None = None,
    token: str | None = None,
    **headers: str,
) -> tuple[int, str]:
    """Send a request as it is written; with `token` as the owner of the sandbox."""
    url = urlsplit(info.hetzner_url if cloud == "hetzner" else info.cloudflare_url)
    connection = http.client.HTTPConnection(url.netloc, timeout=10)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with_token = {} if token is None else {TOKEN_HEADER: token}
    connection.request(method, path, body, {"Host": host or url.netloc, **with_token, **named})
    answer = connection.getresponse()
    said = answer.read().decode()
    connection.close()
    return answer.status, said


def untouched(info: sandbox.SandboxInfo, cloud: str) -> bool:
    """Return whether no fault is in force."""
    status, said = ask(info, cloud, "GET", "/_sandbox/faults", token=info.control_token)
    return (status, json.loads(said)) == (200, {"faults": []})


@pytest.mark.parametrize(("cloud", "method", "path"), [(cloud, *one) for cloud in CLOUDS for one in CONTROLS[cloud]])
def test_every_control_route_wants_the_token(info: sandbox.SandboxInfo, cloud: str, method: str, path: str) -> None:
    for token in (None, "", "wrong", "ü", info.hetzner_token, info.cloudflare_token):
        status, _ = ask(info, cloud, method, f"/_sandbox/{path}", body="{}", token=token, Content_Type=JSON)
        assert status == 401
    status, _ = ask(info, cloud, method, f"/_sandbox/{path}", body="{}", token=info.control_token, Content_Type=JSON)
    assert status in {200, 201, 204, 422}


@pytest.mark.parametrize(
    "path", ["/_sandbox%2Ffaults", "/%5fsandbox/faults", "//_sandbox/faults", "/v1/../_sandbox/faults"]
)
@pytest.mark.parametrize("cloud", CLOUDS)
def test_no_other_spelling_leads_past_it(info: sandbox.SandboxInfo, cloud: str, path: str) -> None:
    status, _ = ask(info, cloud, "POST", path, body=RULE, Content_Type=JSON)
    assert status >= 400
    assert untouched(info, cloud)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_owner_sets_a_fault_and_ends_it(info: sandbox.SandboxInfo, cloud: str) -> None:
    path, token = "/_sandbox/faults", info.control_token
    assert ask(info, cloud, "POST", path, body=RULE, token=token, Content_Type=JSON)[0] == 201
    assert ask(info, cloud, "DELETE", path, token=token)[0] == 204
    assert untouched(info, cloud)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_form_of_a_web_page_is_no_json(info: sandbox.SandboxInfo, cloud: str, kind: str) -> None:
    token = info.control_token
    status, _ = ask(info, cloud, "POST", "/_sandbox/faults", body=RULE, token=token, Content_Type=kind)
    assert status == 415
    assert untouched(info, cloud)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
@pytest.mark.parametrize("cloud", CLOUDS)
def test_no_web_page_uses_it_even_with_the_token(
    info: sandbox.SandboxInfo, cloud: str, headers: dict[str, str]
) -> None:
    token = info.control_token
    status, _ = ask(info, cloud, "POST", "/_sandbox/faults", body=RULE, token=token, Content_Type=JSON, **headers)
    assert status == 403
    path = "/v1/servers" if cloud == "hetzner" else "/client/v4/ips"
    assert ask(info, cloud, "GET", path, **headers)[0] == 403
    assert untouched(info, cloud)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_browser_is_not_told_that_it_may(info: sandbox.SandboxInfo, cloud: str) -> None:
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": TOKEN_HEADER}
    status, _ = ask(info, cloud, "OPTIONS", "/_sandbox/faults", Origin="https://evil.example", **asked)
    assert status == 403


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_name_that_was_rebound_to_loopback_opens_neither_control_nor_api(
    info: sandbox.SandboxInfo, cloud: str
) -> None:
    token = info.control_token
    for path in ("/_sandbox/faults", "/v1/servers", "/client/v4/ips"):
        for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "192.168.1.1:8080"):
            assert ask(info, cloud, "GET", path, host=host, token=token)[0] == 421


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.17.9.2:8080", True),
        ("LocalHost:1", True),
        ("[::1]:80", True),
        ("", False),
        ("localhost.evil.example", False),
        ("evil.example#127.0.0.1", False),
        ("127.0.0.1@evil.example", False),
        ("0.0.0.0:8080", False),
        ("[::ffff:8.8.8.8]", False),
        ("2130706433", False),
        ("127.1", False),
        ("١٢٧.0.0.1", False),
    ],
)
def test_what_counts_as_this_machine(host: str, *, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_a_request_without_a_host_is_refused(info: sandbox.SandboxInfo) -> None:
    address = urlsplit(info.hetzner_url).netloc.split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=10) as plain:
        plain.sendall(b"GET /v1/servers HTTP/1.0\r\n\r\n")
        assert b" 421 " in plain.recv(1000)


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("announced", [True, False])
def test_a_body_without_end_is_cut_off(info: sandbox.SandboxInfo, cloud: str, *, announced: bool) -> None:
    url = urlsplit(info.hetzner_url if cloud == "hetzner" else info.cloudflare_url)
    before = resident(info.pid)
    length = "Content-Length: 100000000000" if announced else "Transfer-Encoding: chunked"
    path, token = "/_sandbox/faults", info.control_token
    head = f"POST {path} HTTP/1.1\r\nHost: {url.netloc}\r\n{TOKEN_HEADER}: {token}\r\nContent-Type: {JSON}\r\n{length}"
    piece = b"x" * 65536 if announced else b"10000\r\n" + b"x" * 65536 + b"\r\n"
    sent = 0
    with socket.create_connection((str(url.hostname), url.port or 0), timeout=10) as plain:
        plain.sendall(f"{head}\r\n\r\n".encode())
        with suppress(ConnectionError):
            while sent < 8 * LARGEST_REQUEST:
                plain.sendall(piece)
                sent += len(piece)
    assert sent < 8 * LARGEST_REQUEST
    assert resident(info.pid) - before < 4 * LARGEST_REQUEST
    assert untouched(info, cloud)


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_slow_pattern_is_none(info: sandbox.SandboxInfo) -> None:
    began = time.monotonic()
    rule = json.dumps({"kind": "delay", "path": "/(a+)+$"})
    path, token = "/_sandbox/faults", info.control_token
    assert ask(info, "hetzner", "POST", path, body=rule, token=token, Content_Type=JSON)[0] == 422
    ask(info, "hetzner", "GET", "/" + "a" * 60 + "!")
    assert time.monotonic() - began < 5


def test_the_token_is_in_private_files_and_on_no_command_line(info: sandbox.SandboxInfo) -> None:
    files = Files(Path(info.folder))
    assert files.control_header.read_text() == f"{TOKEN_HEADER}: {info.control_token}\n"
    assert str(files.control_header) == info.control_header_file
    for path in (files.control_header, files.info, files.ledger, files.log):
        assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid) == (0o600, os.getuid())
    lines = Path(f"/proc/{info.pid}/cmdline").read_bytes() + Path(f"/proc/{info.pid}/environ").read_bytes()
    tokens = (info.control_token, info.hetzner_token, info.hetzner_read_token, info.cloudflare_token)
    assert [token for token in tokens if token.encode() in lines] == []
    assert info.control_token not in repr(info)


def test_the_token_outlives_the_process(tmp_path: Path) -> None:
    box = Box(tmp_path)
    first = box.up()
    kill(first.pid)
    again = box.up()
    assert (again.control_token, again.pid != first.pid) == (first.control_token, True)
    box.down()
    assert not Files(box.folder).control_header.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_another_user_of_the_machine_reads_no_token_and_changes_nothing(info: sandbox.SandboxInfo) -> None:
    tried = """
import http.client, os, sys
address, *files = sys.argv[1:]
"localhost".encode("idna")  # read from disk while that is allowed
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for file in files:
    try:
        open(file).read()
        print("read", file)
    except OSError:
        pass
for path, data in (("/_sandbox/servers/knobs", b'{"ssh_wrong_host_key": true}'), ("/v1/servers", b"{}")):
    method = "PUT" if "knobs" in path else "POST"
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request(method, path, data, {"Content-Type": "application/json"})
    print(connection.getresponse().status)
"""
    address = urlsplit(info.hetzner_url).netloc
    folder = Path(info.folder)
    files = [str(path) for path in folder.rglob("*") if path.is_file()] + [f"/proc/{info.pid}/environ"]
    said = subprocess.run(
        [sys.executable, "-I", "-c", tried, address, *files],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        env={},
        timeout=60,
    )
    assert said.stdout.split() == ["401", "401"]
    # Not for want of a way to them: the folder itself is closed, whatever lies above it.
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
