import base64
import gzip
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli import bootstrap, pins
from clawdet_cli.adapters.ssh_keys import make_host_key
from clawdet_cli.stages.user_data import LIMIT, user_data

SCRIPT = Path(__file__).parents[2] / "provision-openclaw.sh"
TEXT = SCRIPT.read_text()

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the script refuses to look at its input without root")

PREPARE = {
    "openclaw_version": "2026.9.6",
    "node_version": "24.21.0",
    "node_url": "https://mirror.test/node.tar.xz",
    "node_archive_sha256": "a" * 64,
    "node_executable_sha256": "b" * 64,
    "caddy_version": "2.11.7",
    "caddy_url": "https://mirror.test/caddy.tar.gz",
    "caddy_archive_sha512": "c" * 128,
    "caddy_executable_sha256": "d" * 64,
    "lock_sha256": "e" * 64,
}
CONFIGURE = {
    "host": "alice.example.test",
    "user": "alice",
    "certificate_base64": base64.b64encode(b"no certificate" * 10).decode(),
    "key_ANTHROPIC_API_KEY": "sk-ant-0123456789",
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"]},
        timeout=60,
    )


def call(code: str, /, *, text: str = TEXT, **values: str) -> str:
    """Run code with the functions of the script's text, and with these values as its input."""
    functions = text[: text.index('\ncase "$VERB')]
    given = "".join(f"IN[{key}]={_quoted(value)}\n" for key, value in values.items())
    done = subprocess.run(
        ["bash"], input=f"{functions}\n{given}\n{code}", capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


def lines(values: Mapping[str, str]) -> str:
    return "".join(f"{key}={value}\n" for key, value in values.items())


def accepts(key: str, value: str) -> bool:
    return call(f"valid_value {key} {_quoted(value)} && echo yes || echo no") == "yes\n"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_fits_into_user_data() -> None:
    # What is left of Hetzner's limit is for the addresses of a mirror and a bundle.
    pinned = pins.load().for_openclaw(pins.load().default_openclaw, "x86")
    assert len(user_data(make_host_key(), pinned.script_input()).reveal()) < LIMIT - 1536


def test_user_data_holds_each_users_own_host_key() -> None:
    keys = [make_host_key() for _ in range(3)]
    pinned = pins.load().for_openclaw(pins.load().default_openclaw, "x86").script_input()
    packed = [user_data(key, pinned).reveal() for key in keys]
    told = [json.loads(gzip.decompress(base64.b64decode(one)).partition(b"\n")[2]) for one in packed]
    assert [one["ssh_keys"]["ed25519_private"] for one in told] == [key.private.reveal() for key in keys]
    assert [one["ssh_keys"]["ed25519_public"] for one in told] == [key.public for key in keys]
    assert told[0]["write_files"] == told[2]["write_files"]


def test_where_the_addresses_leave_it_no_room_user_data_holds_the_host_key_alone() -> None:
    pinned = pins.load().for_openclaw(pins.load().default_openclaw, "x86").script_input()
    address = "https://mirror.test/" + "".join(hashlib.sha256(bytes([n])).hexdigest() for n in range(31))
    packed = user_data(make_host_key(), {**pinned, "bundle_url": address, "node_url": address[::-1]}).reveal()
    assert len(packed) < LIMIT
    config = json.loads(gzip.decompress(base64.b64decode(packed)).decode().partition("\n")[2])
    assert "ssh_keys" in config
    assert not {"bootcmd", "write_files"} & set(config)


def test_it_names_no_package_registry_and_evaluates_nothing() -> None:
    assert not re.search(r"registry\.npm|npmjs|deb\.debian|pypi", TEXT)
    code = re.sub(r"(?m)^\s*#.*$", "", TEXT)
    assert not re.search(r"(?m)(^|[;&|({]|\bthen\b|\bdo\b)\s*(eval|source)\s", code)
    assert not re.search(r"curl[^\n]*\|\s*(ba)?sh\b", code)


@pytest.mark.parametrize("arguments", [(), ("help",), ("prepare",), ("report", "extra"), ("token", "x", "y")])
def test_a_wrong_command_line_shows_the_usage(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    for verb in (
        "prepare INPUT",
        "ahead INPUT",
        "certificate-request HOST",
        "configure INPUT",
        "report",
        "token",
        "nonce VALUE",
        "claim RUN",
    ):
        assert f"provision-openclaw.sh {verb}" in done.stderr


def declared(array: str) -> list[str]:
    """Return the words of a list in the script."""
    return call(f'printf "%s " "${{{array}[@]}}"').split()


def steps_in(function: str, *, within: Mapping[str, str] | None = None) -> list[str]:
    """Return the steps of a function of the script, those of functions `within` it (call -> name) at their place."""
    body = TEXT[TEXT.index(f"\n{function}() {{") :]
    found = []
    for line in body[: body.index("\n}")].splitlines():
        if match := re.match(r"  step ([a-z-]+) ", line):
            found.append(match[1])
        elif line.strip() in (within or {}):
            found += steps_in((within or {})[line.strip()])
    return found


def test_the_step_lists_are_the_steps_that_are_run() -> None:
    assert steps_in("configure", within={"join_aside": "aside_steps"}) == declared("CONFIGURE_STEPS")
    assert steps_in("program_steps") == declared("PROGRAM_STEPS")
    assert steps_in("machine_steps") == declared("MACHINE_STEPS")
    first, last = re.search(r"begin_phase ([a-z ]+) \"\$\{steps\[@\]\}\"", TEXT), declared("LAST_STEPS")
    assert first
    assert steps_in("prepare") == first[1].split() + last
    for name in re.findall(r"(?m)^  step ([a-z-]+) ", TEXT):
        assert f"do_{name.replace('-', '_')}() {{" in TEXT


@needs_root
@pytest.mark.parametrize(
    ("verb", "values", "complaint"),
    [
        ("prepare", {**PREPARE, "colour": "red"}, "unknown key colour"),
        ("prepare", {**PREPARE, "host": "alice.example.test"}, "unknown key host"),
        ("prepare", {k: v for k, v in PREPARE.items() if k != "lock_sha256"}, "lock_sha256 is missing"),
        ("prepare", {**PREPARE, "node_archive_sha256": "A" * 64}, "node_archive_sha256 is malformed"),
        ("prepare", {**PREPARE, "node_version": "24"}, "node_version is malformed"),
        ("prepare", {**PREPARE, "openclaw_version": "../../x"}, "openclaw_version is malformed"),
        ("prepare", {**PREPARE, "node_url": "ftp://mirror.test/x"}, "node_url is malformed"),
        ("prepare", {**PREPARE, "caddy_url": 'https://x/"\nproxy = "y'}, "caddy_url is malformed"),
        ("configure", {**CONFIGURE, "host": "alice example.test"}, "host is malformed"),
        ("configure", {**CONFIGURE, "host": "alice.test {\n"}, "host is malformed"),
        ("configure", {**CONFIGURE, "user": "\x1b[31m"}, "user is malformed"),
        ("configure", {**CONFIGURE, "model": "gpt; rm -rf /"}, "model is malformed"),
        ("configure", {**CONFIGURE, "certificate_base64": "-----BEGIN"}, "certificate_base64 is malformed"),
    ],
)
def test_wrong_input_is_refused_and_deleted(tmp_path: Path, verb: str, values: dict[str, str], complaint: str) -> None:
    file = tmp_path / "input"
    file.write_text(lines(values))
    done = run(verb, str(file))
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stdout.splitlines()[-1] == "@result failed step=input code=2"
    assert not file.exists()


@needs_root
def test_a_malformed_key_is_named_but_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_text(lines({**CONFIGURE, "key_OPENAI_API_KEY": 'sk-secret"$(id)'}))
    done = run("configure", str(file))
    assert done.returncode == 2
    assert "key_OPENAI_API_KEY is malformed" in done.stderr
    assert "sk-" not in done.stdout + done.stderr


@needs_root
def test_a_line_without_a_value_and_a_repeated_key_are_refused(tmp_path: Path) -> None:
    for text, complaint in (
        ("sk-secret\n", "not key=value"),
        (lines(CONFIGURE) + "host=bob.example.test\n", "given twice"),
    ):
        file = tmp_path / "input"
        file.write_text(text)
        done = run("configure", str(file))
        assert done.returncode == 2
        assert complaint in done.stderr
        assert "sk-" not in done.stdout + done.stderr
        assert not file.exists()


@needs_root
def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text(lines(CONFIGURE))
    (tmp_path / "input").symlink_to(tmp_path / "target")
    done = run("configure", str(tmp_path / "input"))
    assert done.returncode == 2
    assert (tmp_path / "target").exists()


@needs_root
@pytest.mark.parametrize("host", ["", "localhost", "a_b.test", "-a.test", "a..test", "ä.test", "a.test\nb", "*.a.test"])
def test_no_request_is_made_for_a_malformed_host(host: str) -> None:
    done = run("certificate-request", host)
    assert (done.returncode, done.stdout) == (2, "")


@needs_root
@pytest.mark.parametrize("value", ["short", "A" * 10, "../../etc/passwd", "a" * 65, "abcdefgh\n"])
def test_a_malformed_nonce_is_refused(value: str) -> None:
    done = run("nonce", value)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("which", ["node", "caddy"])
def test_a_download_that_fails_shows_no_password_and_no_signature(which: str, tmp_path: Path) -> None:
    url = "https://alice:pass@word@mirror.test/folder/archive.tar.gz?signature=canary"
    failing = (
        f"SCRATCH={tmp_path}; have_node() {{ [[ {which} != node ]]; }}; have_caddy() {{ [[ {which} != caddy ]]; }}"
    )
    said = call(f"{failing}; fetch() {{ false; }}; (do_downloads) 2>&1 || true", **{f"{which}_url": url})
    assert "cannot download from https://***@mirror.test/folder/archive.tar.gz\n" in said
    assert not re.search("alice|pass|word|canary", said)


def test_what_a_failed_program_said_shows_no_password_of_a_mirror(tmp_path: Path) -> None:
    words = "echo 404 for https://alice:pass@mirror.test/openclaw and https://plain.test/@scope/x; exit 1"
    said = call(f"SCRATCH={tmp_path}; quiet bash -c {_quoted(words)} || true")
    assert said == "  | 404 for https://***@mirror.test/openclaw and https://plain.test/@scope/x\n"


def test_a_program_of_npms_that_does_not_hear_is_killed_at_the_end() -> None:
    text = TEXT.replace("JOB_END_TRIES=100", "JOB_END_TRIES=3")
    deaf = "deaf() { trap '' TERM; exec sleep 40; }; begin_job deaf >/dev/null 2>&1; echo $JOB"
    began = time.monotonic()
    number = call(deaf, text=text).strip()
    assert time.monotonic() - began < 20
    assert not Path(f"/proc/{number}").exists()


BROKEN_ASIDE = """
SCRATCH={folder}
step() {{ STEP=$1; echo "@step begin $1"; "$1"; echo "@step done $1"; }}
workspace() {{ :; }}
certificate() {{ :; }}
landing-page() {{ {fault}; }}
begin_job aside_steps >"$SCRATCH/aside"
join_aside
echo went on
"""


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("die 'there is no room' 3", "told: landing-page: there is no room\n"),
        ("false", "told: landing-page: line 1: false (exit 1)\n"),
    ],
)
def test_what_fails_beside_the_gateway_is_told_with_its_step(fault: str, told: str, tmp_path: Path) -> None:
    watched = TEXT.replace("trap on_exit EXIT", """trap 'echo "told: $STEP: $REASON"; exit 0' EXIT""")
    said = call(BROKEN_ASIDE.format(folder=tmp_path, fault=fault), text=watched)
    done = [f"@step {word} {name}\n" for name in ("workspace", "certificate") for word in ("begin", "done")]
    steps = "".join(done) + "@step begin landing-page\n"
    assert re.sub(r"line \d+", "line 1", said) == steps + told


@pytest.mark.parametrize("wrong", ["node", "caddy", "openclaw", ""])
def test_a_machine_is_prepared_when_each_program_says_its_version(wrong: str, tmp_path: Path) -> None:
    for name, said in (("node", "v24.21.0"), ("caddy", "v2.11.7 h1:x"), ("openclaw", "OpenClaw 2026.9.6 (abc)")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{said if name != wrong else 'v0.0.1'}'\n")
        (tmp_path / name).chmod(0o755)
    text = TEXT.replace("trap on_exit EXIT", """trap 'echo "told: $REASON"; exit 0' EXIT""")
    text = text.replace("/usr/local/bin/", f"{tmp_path}/").replace("RECORD=/var/lib/clawdet", f"RECORD={tmp_path}")
    given = dict.fromkeys(("node_executable_sha256", "caddy_executable_sha256", "lock_sha256"), "0")
    given |= {"node_version": "24.21.0", "caddy_version": "2.11.7", "openclaw_version": "2026.9.6"}
    said = call("systemctl() { :; }; do_prepared", text=text, **given)
    assert said == (f"told: {wrong} does not run, or is another version\n" if wrong else "told: \n")
    assert (tmp_path / "prepared").exists() is (not wrong)


def test_sshd_is_never_asked_while_a_restart_has_taken_its_folder_away(tmp_path: Path) -> None:
    text = TEXT.replace("/run/sshd", f"{tmp_path}/sshd").replace("/run/clawdet-sshd.lock", f"{tmp_path}/lock")
    # What stands in for both takes a moment, in which the other could come between.
    restarting = f"touch {tmp_path}/begun; sleep 0.1; rm -rf {tmp_path}/sshd; sleep 0.3; mkdir -p {tmp_path}/sshd"
    acted = f"sshd() {{ sleep 0.2; [[ -d {tmp_path}/sshd ]] && echo well; }}; systemctl() {{ {restarting}; }}"
    meanwhile = f"until [[ -f {tmp_path}/begun ]]; do :; done; alone_with_sshd sshd -t"
    assert call(f"{acted}; restart_sshd & {meanwhile} || echo ill; wait", text=text) == "well\nwell\n"


def test_a_program_is_read_once_and_one_with_another_digest_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "program").write_text("good")
    good = hashlib.sha256(b"good").hexdigest()
    counted = f"sha() {{ echo read >>{tmp_path}/reads; sha256sum \"$2\" | cut -d ' ' -f 1; }}"
    asked = f"has_digest {tmp_path}/program {good} && echo taken || echo refused"
    assert call(f"{counted}; {asked}; {asked}; {asked.replace(good, 'f' * 64)}") == "taken\ntaken\nrefused\n"
    assert (tmp_path / "reads").read_text() == "read\nread\n"


def test_a_nonce_stays_beside_those_of_others_who_look_at_the_same_time(tmp_path: Path) -> None:
    text = TEXT.replace("WEB=/var/www/clawdet", f"WEB={tmp_path}")
    call('for i in $(seq 20); do nonce "first000$i" & nonce "second00$i" & done; wait', text=text)
    published = tmp_path / ".well-known/clawdet-nonce"
    assert len(set(published.read_text().split())) == 32
    call("nonce newest00", text=text)
    assert published.read_text().split()[-1] == "newest00"
    assert len(published.read_text().split()) == 32
    assert published.stat().st_mode & 0o777 == 0o644


@needs_root
def test_a_report_can_always_be_made() -> None:
    done = run("report")
    assert done.returncode == 0
    keys = [line.partition("=")[0] for line in done.stdout.splitlines()]
    assert all(re.fullmatch(r"[a-z0-9_]+", key) for key in keys)
    assert {"phase", "openclaw_unit", "gateway_ready", "listener_owner", "certificate_sha256", "landing"} <= set(keys)


@pytest.mark.parametrize(("room", "told"), [("0M", True), ("9M", True), ("10M", False), ("5000M", False), ("", False)])
def test_a_failure_on_a_full_disk_says_so_whatever_failed(room: str, told: bool) -> None:
    functions = TEXT[: TEXT.index('\ncase "$VERB')]
    code = f"""
    df() {{ printf 'Avail\\n {room}\\n'; }}
    clear_leftovers() {{ df() {{ printf 'Avail\\n 9000M\\n'; }}; }}
    VERB=prepare STEP=node SCRATCH=/nowhere REASON='line 1: tar (exit 2)'
    exit 1
    """
    done = subprocess.run(["bash"], input=functions + code, capture_output=True, text=True, check=False, timeout=60)
    why = "line 1: tar (exit 2)"
    full = f"the disk is full: make room on /, then run this again ({why})"
    assert done.stdout == f"@step fail node 1 {full if told else why}\n@result failed step=node code=1\n"
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("alice.example.test", True),
        ("a-1.b-2.example.co", True),
        ("xn--mller-kva.example.test", True),
        ("1.2.3.4", False),
        ("Alice.example.test", False),
        ("alice.example.test.", False),
        (f"{'a' * 64}.test", False),
        (f"{'a' * 63}.test", True),
        (".".join(["a" * 60] * 5), False),
    ],
)
def test_host_names(host: str, good: bool) -> None:
    assert accepts("host", host) is good


@pytest.mark.parametrize(
    ("key", "value", "good"),
    [
        ("user", "José O'Neil & Söhne", True),
        ("user", "   ", False),
        ("model", "", True),
        ("model", "anthropic/claude-opus-5", True),
        ("model", "openrouter/openrouter/fusion", True),
        ("model", "claude", False),
        ("key_XAI_API_KEY", "xai-0123456789_-.~", True),
        ("key_XAI_API_KEY", "x y z a b c d", False),
        ("key_XAI_API_KEY", "short", False),
        ("npm_registry", "file:///srv/mirror", True),
        ("npm_registry", "https://name:secret@mirror.test/npm/", True),
        ("something", "x", False),
    ],
)
def test_other_values(key: str, value: str, good: bool) -> None:
    assert accepts(key, value) is good


def test_the_landing_page_escapes_its_owner_and_asks_nobody_else() -> None:
    page = call("landing_page", host="alice.example.test", user="<script>alert('1')</script> & \"Co\"")
    assert "alert('" not in page
    assert "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;Co&quot;" in page
    assert "//" not in re.sub(r"https://alice\.example\.test", "", page)
    assert 'href="/app/"' in page
    assert "fetch('/healthz'" in page


def test_the_policy_allows_exactly_the_pages_own_style_and_script() -> None:
    page = call("landing_page", host="alice.example.test", user="alice")
    caddyfile = call("caddyfile", host="alice.example.test", user="alice")
    for element in ("style", "script"):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in caddyfile
    assert "unsafe" not in caddyfile
    assert not re.search(r"\son[a-z]+=|\sstyle=", page)


def test_caddy_never_asks_for_a_certificate_and_exposes_only_the_gateways_own_paths() -> None:
    caddyfile = call("caddyfile", host="alice.example.test", user="alice")
    assert "auto_https off" in caddyfile
    assert "admin off" in caddyfile
    assert re.findall(r"@gateway path (.*)", caddyfile) == ["/app /app/* /healthz"]
    assert caddyfile.count("reverse_proxy") == 1


def test_the_units_let_nobody_be_root_and_hold_no_secret() -> None:
    for unit, user in (("gateway_unit", "openclaw"), ("caddy_unit", "caddy")):
        text = call(unit, node_version="24.21.0", openclaw_version="2026.9.6")
        assert f"User={user}\n" in text
        assert "NoNewPrivileges=yes" in text
        assert "ProtectSystem=strict" in text
        assert not re.search(r"token|key", text, re.IGNORECASE)
    gateway = call("gateway_unit", node_version="24.21.0", openclaw_version="2026.9.6")
    # Both break the gateway.
    assert "RestrictSUIDSGID" not in gateway
    assert "MemoryDenyWriteExecute" not in gateway
    assert "RestartPreventExitStatus=78" in gateway


HOME = "/var/lib/openclaw"
SEARCH_PATH = f"/opt/node/24.21.0/bin:/usr/local/bin:{HOME}/.npm-global/bin:{HOME}/.local/bin:/usr/bin:/bin"


def test_the_gateway_finds_what_its_user_installs_and_writes_to_each_temporary_folder() -> None:
    lines = call("gateway_unit", node_version="24.21.0", openclaw_version="2026.9.6").splitlines()
    assert f"Environment=PATH={SEARCH_PATH}" in lines
    environment = f"NPM_CONFIG_PREFIX={HOME}/.npm-global OPENCLAW_SERVICE_REPAIR_POLICY=external"
    assert f"Environment={environment}" in lines
    assert f"ReadWritePaths={HOME} -/tmp -/var/tmp" in lines


class Wrapper:
    """The command `openclaw` of a VPS, with programs around it that tell what it does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.closed = folder, folder / "home", folder / "closed"
        for one in (self.home, self.closed, folder / "bin"):
            one.mkdir()
        text = call("openclaw_wrapper", node_version="24.21.0", openclaw_version="2026.9.6")
        for old, new in (
            ("/opt/node/24.21.0/bin/node", f"{folder}/bin/node"),
            ("/usr/local/bin/openclaw", f"{folder}/bin/openclaw"),
            (f"cd {HOME}", f"cd {self.home}"),
            ('user="setpriv ', f'user="{folder}/bin/setpriv '),
            # Root's environment ends where the user's begins.
            ("$(id -u)", f'$([ "$HOME" = {HOME} ] && echo 999 || echo "$CALLER")'),
        ):
            assert old in text
            text = text.replace(old, new)
        self._program("openclaw", text)
        self._program("node", '#!/bin/sh\necho "in $PWD"\nenv\nshift\necho "said $*"\n')
        self._program("systemctl", '#!/bin/sh\necho "systemctl $*"\n')
        self._program(
            "setpriv",
            "#!/bin/sh\nshift 5\n" + f'case "$1 $3" in "test {self.closed}"*) exit 1;; esac\nexec "$@"\n',
        )

    def _program(self, name: str, text: str) -> None:
        (self.folder / "bin" / name).write_text(text)
        (self.folder / "bin" / name).chmod(0o755)

    def __call__(self, folder: Path, *arguments: str, uid: int = 0) -> tuple[list[str], str]:
        done = subprocess.run(
            [self.folder / "bin" / "openclaw", *arguments],
            capture_output=True,
            text=True,
            check=True,
            cwd=folder,
            env={"PATH": f"{self.folder}/bin:/usr/bin:/bin", "HOME": "/root", "SECRET": "x", "CALLER": str(uid)},
            timeout=60,
            start_new_session=True,  # without a terminal, whoever runs the tests
        )
        return done.stdout.splitlines(), done.stderr


@pytest.fixture
def wrapper(tmp_path: Path) -> Wrapper:
    return Wrapper(tmp_path)


def test_the_command_line_of_root_is_the_users_with_his_programs_and_nothing_of_roots(wrapper: Wrapper) -> None:
    said, error = wrapper(wrapper.folder, "health", "two words")
    assert error == ""
    assert {
        f"in {wrapper.folder}",
        "said health two words",
        f"NPM_CONFIG_PREFIX={HOME}/.npm-global",
        "OPENCLAW_SERVICE_REPAIR_POLICY=external",
        f"HOME={HOME}",
    } <= set(said)
    assert [line for line in said if line.startswith(f"PATH={SEARCH_PATH}:")]
    assert not [line for line in said if line.startswith("SECRET=")]
    ours, _ = wrapper(wrapper.folder, "health", uid=999)
    assert {"SECRET=x", "OPENCLAW_SERVICE_REPAIR_POLICY=external"} <= set(ours)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("config", "patch", "--file", "p.json"), "p.json"),
        (("config", "patch", "--file=p.json"), "--file=p.json"),
        (("backup", "create", "--output", "."), "."),
        (("status",), None),
        (("config", "patch", "--file", "/srv/p.json"), None),
    ],
)
def test_a_folder_that_is_closed_to_the_user_is_left_and_what_is_looked_for_elsewhere_is_named(
    wrapper: Wrapper, arguments: tuple[str, ...], named: str | None
) -> None:
    for folder in (wrapper.closed, wrapper.folder):
        (folder / "p.json").write_text("{}")
    said, error = wrapper(wrapper.closed, *arguments)
    assert f"in {wrapper.home}" in said
    note = f"openclaw: the user openclaw cannot enter {wrapper.closed}; it looks for {named} in {HOME}\n"
    assert error == (note if named else "")
    said, error = wrapper(wrapper.folder, *arguments)
    assert (f"in {wrapper.folder}" in said, error) == (True, "")


@pytest.mark.parametrize("works", [True, False])
def test_typing_for_others_is_switched_off_where_the_kernel_can_and_is_no_failure_elsewhere(
    works: bool, tmp_path: Path
) -> None:
    text = TEXT.replace("TIOCSTI=/etc/sysctl.d/", f"TIOCSTI={tmp_path}/").replace("/lib/systemd/", f"{tmp_path}/")
    (tmp_path / "systemd-sysctl").write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/taken\n{"true" if works else "false"}\n')
    (tmp_path / "systemd-sysctl").chmod(0o755)
    (tmp_path / "60-clawdet.conf").touch()
    others = 'getent() { :; }; install() { [[ $1 == -d ]] || command install "$@"; }'
    assert call(f"SCRATCH={tmp_path}; {others}; do_users; echo on", text=text).endswith("on\n")
    assert (tmp_path / "taken").read_text() == "-dev.tty.legacy_tiocsti = 0\n"


@pytest.mark.parametrize("verb", ["restart", "start", "stop"])
def test_the_gateway_is_restarted_by_systemd_or_whoever_asks_is_told_so(wrapper: Wrapper, verb: str) -> None:
    for uid in (0, 999):
        said, error = wrapper(wrapper.folder, "gateway", verb, uid=uid)
        # Where an agent asks, nobody sits at its terminal.
        assert said == [f"systemctl --no-ask-password {verb} openclaw-gateway"]
        assert error == f"openclaw: root does this with: systemctl {verb} openclaw-gateway\n"
    said, _ = wrapper(wrapper.folder, "gateway", verb, "--help")
    assert f"said gateway {verb} --help" in said


def test_the_firewall_of_the_machine_is_set_by_a_program_that_can_do_little_else() -> None:
    unit = call("nft() { :; }; metadata_unit")
    for line in ("PrivateTmp=yes", "RestrictSUIDSGID=yes", "MemoryDenyWriteExecute=yes"):
        assert f"\n{line}\n" in unit
    # An empty line forgets what came before; without it the families would add up.
    assert "".join(re.findall(r"RestrictAddressFamilies=(.*)\n", unit)[-2:]) == "AF_NETLINK"


@pytest.mark.parametrize(
    ("off", "holds"), [("", "yes"), ("enabled apt-daily-upgrade", "no"), ("active apt-daily", "no")]
)
def test_updates_are_promised_only_where_both_timers_bring_them(off: str, holds: str) -> None:
    states = {(one, state): state for one in ("apt-daily", "apt-daily-upgrade") for state in ("active", "enabled")}
    if off:
        state, timer = off.split()
        states[timer, state] = "something else"
    lines = "\n\n".join(
        f"ActiveState={states[one, 'active']}\nUnitFileState={states[one, 'enabled']}"
        for one in ("apt-daily", "apt-daily-upgrade")
    )
    systemctl = f"systemctl() {{ echo '{lines}'; }}"
    code = f"{systemctl}; cat() {{ updates; }}; have_updates && echo yes || echo no"
    assert call(code).strip() == holds


class Plan:
    """The program that plans openclaw.json and secrets.json, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = call("config_program").replace(
            "require(`/opt/openclaw/${version}/node_modules/json5`).parse", "JSON.parse"
        )

    def __call__(
        self, mode: str, keys: str = "", *, host: str = "a.test", model: str = "", last: str = "", fresh: str = ""
    ) -> str:
        arguments = [str(self.folder), mode, host, "2026.9.6", model, last, fresh]
        done = subprocess.run(
            ["node", "-e", self.program, *arguments],
            input=keys,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def change(self, keys: str = "", **more: str) -> None:
        assert self("write", keys, **more) == "changed"
        (self.folder / "openclaw.json.clawdet").rename(self.folder / "openclaw.json")
        assert self("finish") == ""

    def write(self, name: str, content: object) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        (self.folder / name).write_text(text)

    @property
    def config(self) -> Any:
        return json.loads((self.folder / "openclaw.json").read_text())

    @property
    def places(self) -> Any:
        return json.loads((self.folder / "secrets.json").read_text())

    @property
    def secrets(self) -> Any:
        (values,) = self.places.values()
        return values


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    return Plan(tmp_path)


def test_the_first_configuration_names_the_places_of_its_secrets(plan: Plan) -> None:
    assert plan("plan") == "changed"
    assert list(plan.folder.iterdir()) == []
    plan.change("OPENAI_API_KEY=sk-one-0123\n")
    (place,) = plan.places
    assert re.fullmatch("r[0-9a-f]{8}", place)
    assert re.fullmatch("[0-9a-f]{48}", plan.secrets["OPENCLAW_GATEWAY_TOKEN"])
    assert plan.secrets["OPENAI_API_KEY"] == "sk-one-0123"
    token = {"source": "file", "provider": "clawdet", "id": f"/{place}/OPENCLAW_GATEWAY_TOKEN"}
    assert plan.config["gateway"]["auth"] == {"mode": "token", "token": token}
    file = {"source": "file", "path": str(plan.folder / "secrets.json"), "mode": "json"}
    assert plan.config["secrets"] == {"providers": {"clawdet": file}}
    key = {"source": "file", "provider": "clawdet", "id": f"/{place}/OPENAI_API_KEY"}
    assert plan.config["models"] == {"providers": {"openai": {"models": [], "apiKey": key}}}
    assert plan.config["meta"] == {"lastTouchedVersion": "2026.9.6"}
    assert plan.config["browser"] == {"noSandbox": True}
    assert "sk-one" not in (plan.folder / "openclaw.json").read_text()
    assert {one.name: one.stat().st_mode & 0o777 for one in plan.folder.iterdir()} == {
        "openclaw.json": 0o600,
        "secrets.json": 0o600,
    }


def test_what_is_as_it_should_be_is_kept(plan: Plan) -> None:
    plan.change("OPENAI_API_KEY=sk-one-0123\n", model="openai/x")
    before = plan.places
    for keys in ("", "OPENAI_API_KEY=sk-one-0123\n"):
        assert plan("plan", keys, model="openai/x", last="openai/x") == "kept"
    assert plan.places == before
    (plan.folder / "secrets.json").chmod(0o640)
    assert plan("plan") == "changed"


@pytest.mark.parametrize(
    ("keys", "more"),
    [
        ("OPENAI_API_KEY=sk-two-0123\n", {}),
        ("XAI_API_KEY=xai-0123\n", {}),
        ("", {"host": "b.test"}),
        ("", {"fresh": "yes"}),
        ("", {"model": "xai/x"}),
    ],
)
def test_a_change_goes_to_a_new_place_and_the_old_one_stays_until_the_end(
    plan: Plan, keys: str, more: dict[str, str]
) -> None:
    plan.change("OPENAI_API_KEY=sk-one-0123\n")
    ((place, values),) = plan.places.items()
    assert plan("plan", keys, **more) == "changed"
    assert plan("write", keys, **more) == "changed"
    assert next(iter(plan.places)) == place
    assert plan.places[place] == values
    assert len(plan.places) == 2
    assert f"/{place}/" in (plan.folder / "openclaw.json").read_text()
    # Refused: all is as it was.
    assert plan("finish") == ""
    assert plan.places == {place: values}
    plan.change(keys, **more)
    assert place not in plan.places
    assert f"/{place}/" not in (plan.folder / "openclaw.json").read_text()
    same_token = plan.secrets["OPENCLAW_GATEWAY_TOKEN"] == values["OPENCLAW_GATEWAY_TOKEN"]
    assert same_token == ("fresh" not in more)


def test_a_change_that_was_cut_off_is_made_again_in_another_place(plan: Plan) -> None:
    plan.change()
    assert plan("write", host="b.test") == "changed"
    (plan.folder / "openclaw.json.clawdet").rename(plan.folder / "openclaw.json")
    named = plan.config["gateway"]["auth"]["token"]["id"].split("/")[1]
    # Nobody knows whether the gateway has heard of it.
    assert plan("plan", host="b.test") == "changed"
    plan.change(host="b.test")
    assert named not in plan.places
    assert plan("plan", host="b.test") == "kept"


def test_what_the_user_changed_stays(plan: Plan) -> None:
    plan.change("ANTHROPIC_API_KEY=sk-ant-0123\n", model="anthropic/x")
    config = plan.config
    config["models"]["providers"]["anthropic"].update(baseUrl="http://127.0.0.1:9999", models=[{"id": "m"}])
    config["models"]["providers"]["mine"] = {"baseUrl": "http://127.0.0.1:1", "models": []}
    config["secrets"]["providers"]["own"] = {"source": "env"}
    config["agents"]["defaults"]["model"]["primary"] = "anthropic/y"
    config["gateway"]["reload"] = {"mode": "off"}
    del config["browser"]
    plan.write("openclaw.json", config)
    assert plan("plan", model="anthropic/x", last="anthropic/x") == "kept"
    plan.change("ANTHROPIC_API_KEY=sk-ant-4567\n", host="b.test", model="anthropic/x", last="anthropic/x")
    text = (plan.folder / "openclaw.json").read_text()
    config["gateway"]["publicOrigin"] = "https://b.test"
    config["gateway"]["controlUi"]["allowedOrigins"] = ["https://b.test"]
    assert json.loads(re.sub("/r[0-9a-f]{8}/", "/", text)) == json.loads(
        re.sub("/r[0-9a-f]{8}/", "/", json.dumps(config))
    )


@pytest.mark.parametrize("cut_off", [False, True])
def test_the_token_and_the_keys_of_an_older_env_move(plan: Plan, cut_off: bool) -> None:
    token = "0" * 48
    mine = '# mine\nx[$(touch pwned)]=1\nMY_KEY="v"'
    plan.write(
        ".env",
        f"OPENCLAW_GATEWAY_TOKEN={token}\nOPENAI_API_KEY=one\n{mine}\nOPENAI_API_KEY=two\nXAI_API_KEY='xai-0123'\n",
    )
    plan.write("openclaw.json", {"gateway": {"auth": {"token": {"source": "env", "id": "OPENCLAW_GATEWAY_TOKEN"}}}})
    if cut_off:
        assert plan("write", "OPENAI_API_KEY=sk-two-0123\n") == "changed"
    plan.change("OPENAI_API_KEY=sk-two-0123\n")
    assert plan.secrets == {
        "OPENCLAW_GATEWAY_TOKEN": token,
        "OPENAI_API_KEY": "sk-two-0123",
        "XAI_API_KEY": "xai-0123",
    }
    assert (plan.folder / ".env").read_text() == mine + "\n"
    assert not (plan.folder / "pwned").exists()


def test_later_only_the_token_is_taken_out_of_env(plan: Plan) -> None:
    plan.change("OPENAI_API_KEY=sk-one-0123\n")
    plan.write(".env", "OPENAI_API_KEY=sk-mine-0123\n")
    assert plan("plan") == "kept"
    plan.write(".env", f"OPENAI_API_KEY=sk-mine-0123\nOPENCLAW_GATEWAY_TOKEN={'1' * 48}\n")
    plan.change()
    assert (plan.folder / ".env").read_text() == "OPENAI_API_KEY=sk-mine-0123\n"
    assert plan.secrets["OPENAI_API_KEY"] == "sk-one-0123"
    assert plan.secrets["OPENCLAW_GATEWAY_TOKEN"] != "1" * 48
    # Nothing else in it: it goes.
    plan.write(".env", f"OPENCLAW_GATEWAY_TOKEN={'1' * 48}\n")
    plan.change()
    assert not (plan.folder / ".env").exists()


def test_what_is_sent_has_no_comments_of_its_own_and_the_same_lines() -> None:
    sent, whole = bootstrap.script().decode().split("\n"), TEXT.split("\n")
    assert len(sent) == len(whole)
    gone = [line for one, line in zip(sent, whole, strict=True) if one != line]
    assert len(gone) > 50
    assert all(re.match(r"\s*# ", line) for line in gone)
    written = call("workspace_file AGENTS.md; config_program; caddyfile", host="alice.example.test", user="alice")
    done = "\n".join(sent)
    assert "# How to work here\n" in done
    assert "\t# The certificate is a file" in done
    assert "# The certificate is a file" in written
    assert sent[:12] == whole[:12]


def test_the_gateway_is_left_to_a_configuration_that_waits(tmp_path: Path) -> None:
    text = TEXT.replace("WAITS=/run/clawdet.waits", f"WAITS={tmp_path}/waits")
    code = "as_openclaw() { return 1; }; have_gateway || echo prepares; exec 8>$WAITS; flock -n 8; "
    code += "have_gateway && echo configures; exec 8>&-; have_gateway || echo prepares"
    assert call(code, text=text) == "prepares\nconfigures\nprepares\n"


def test_nothing_is_started_to_look_for_a_gateway_that_does_not_listen_yet() -> None:
    code = "local_get() { echo asked >&2; }; gateway_is_ready 2>&1 && echo ready || echo not"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        text = TEXT.replace("PORT=18789", f"PORT={listener.getsockname()[1]}")
        assert call(code, text=text) == "ready\n"
    assert call(code.replace(">&2", ""), text=text) == "not\n"


@pytest.mark.parametrize(
    ("verb", "listens", "ready", "asked"),
    [("configure", 1, 1, 0), ("configure", 1, 3, 1), ("configure", 3, 3, 1), ("prepare", 1, 1, 1)],
)
def test_the_command_line_is_asked_as_soon_as_the_gateway_listens(
    tmp_path: Path, verb: str, listens: int, ready: int, asked: int
) -> None:
    """At which look it listens, and at which it is ready; where it is so at first sight something may be to change."""
    openclaw = tmp_path / "openclaw"
    openclaw.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\n')
    openclaw.chmod(0o755)
    text = TEXT.replace("/usr/local/bin/openclaw gateway health", f"{openclaw} gateway health")
    code = f"n=0; gateway_listens() {{ ((++n >= {listens})); }}; gateway_says_ready() {{ ((n >= {ready})); }}\n"
    code += "unit_is() { return 1; }; sleep() { ((n < 9)); }; "
    code += "systemctl() { if [[ $2 == -P ]]; then echo 0; else echo NRestarts=0; echo MainPID=7; fi; }\n"
    code += f"SCRATCH={tmp_path}; VERB={verb}; do_gateway_ready\n"
    code += f'[[ -z $HEALTH ]] || wait "$HEALTH"; cat {tmp_path}/asked 2>/dev/null || true'
    assert call(code, text=text) == "gateway health --json\n" * asked


def test_a_report_waits_for_what_a_configuration_at_its_end_finds_out(tmp_path: Path) -> None:
    text = TEXT.replace("/run/clawdet.lock", f"{tmp_path}/lock").replace(
        "RECORD=/var/lib/clawdet\n", f"RECORD={tmp_path}\n"
    )
    code = f"""
gateway_is_ready() {{ :; }}; gateway_life() {{ printf 0,7; }}; uptime_seconds() {{ echo 100; }}
(
  exec 9>{tmp_path}/lock
  flock 9
  : >{tmp_path}/held
  # What is installed is told at once: it takes longest to find out.
  until [[ $(cat {tmp_path}/said 2>/dev/null) == *lock_sha256=* ]]; do :; done
  echo host=alice.test >{tmp_path}/configured
  echo 0,7 99 >{tmp_path}/health
) &
until [[ -e {tmp_path}/held ]]; do :; done
report >{tmp_path}/said"""
    call(code, text=text)
    said = (tmp_path / "said").read_text().splitlines()
    assert {"phase=configured", "host=alice.test", "gateway_ready=true", "gateway_health=ok"} <= set(said)


AHEAD = "".join(f"{key}={value}\n" for key, value in PREPARE.items()) + "bundle_url=https://mirror.test/b.tar.zst\n"


@needs_root
@pytest.mark.parametrize("whole", [True, False])
def test_a_bundle_that_was_begun_ahead_is_waited_for_and_fetched_anew_only_if_it_is_not_the_one(
    tmp_path: Path, whole: bool
) -> None:
    digest = hashlib.sha256(b"bundle").hexdigest()
    given = tmp_path / "input"
    given.write_text(f"{AHEAD}bundle_sha256={digest}\n")
    code = f"""
fetch() {{
  [[ $2 == */part ]] || {{ printf bundle >"$2" && echo anew && return; }}
  : >{tmp_path}/begun
  until [[ -e {tmp_path}/wanted ]] || ((SECONDS > 20)); do :; done
  printf {"bundle" if whole else "half"} >"$2"
}}
(VERB=ahead IN=(); ahead {given}) &
until [[ -e {tmp_path}/begun ]] || ((SECONDS > 20)); do :; done
flock() {{ [[ $1 != -w ]] || : >{tmp_path}/wanted; command flock "$@"; }}
zstd() {{ cat -- "${{@: -1}}" >{tmp_path}/used; false; }}
unpack_bundle {tmp_path}/fetched {tmp_path} || echo "$REFUSED"
"""
    said = call(code, text=_with_bundles(tmp_path), bundle_url="https://mirror.test/b.tar.zst", bundle_sha256=digest)
    assert said == ("" if whole else "anew\n") + "it cannot be unpacked\n"
    assert (tmp_path / "used").read_text() == "bundle"
    assert given.exists()


def test_a_file_that_was_sent_does_not_pass_for_one_that_was_compared_with_its_digest(tmp_path: Path) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / ("a" * 64)).write_text("sent by somebody who was cut off")
    code = f'fetch() {{ false; }}; unpack_bundle {tmp_path}/fetched {tmp_path} || echo "$REFUSED"'
    said = call(code, text=_with_bundles(tmp_path), bundle_url="https://mirror.test/b.tar.zst", bundle_sha256="a" * 64)
    assert said == "it did not arrive\n"


@needs_root
def test_nothing_is_brought_ahead_of_what_has_no_bundle(tmp_path: Path) -> None:
    given = tmp_path / "input"
    given.write_text(AHEAD.replace("bundle_url=", "npm_registry="))
    code = f"fetch() {{ echo fetched; }}; (VERB=ahead; ahead {given})"
    assert call(code, text=_with_bundles(tmp_path)) == ""
    assert not (tmp_path / "bundles").exists()


def _with_bundles(folder: Path) -> str:
    return TEXT.replace("BUNDLES=/run/clawdet/bundles\n", f"BUNDLES={folder}/bundles\n")


@pytest.mark.parametrize("times", [1, 9])
def test_whoever_else_restarts_sshd_takes_it_its_folder_for_a_moment_only(tmp_path: Path, times: int) -> None:
    text = TEXT.replace("/run/sshd", f"{tmp_path}/sshd").replace("/run/clawdet-sshd.lock", f"{tmp_path}/lock")
    code = f"""
sleep() {{ :; }}
sshd() {{
  echo >>{tmp_path}/asked
  (($(wc -l <{tmp_path}/asked) > {times})) || {{ echo "Missing privilege separation directory" >&2; return 255; }}
}}
systemctl() {{ echo "$@"; }}
restart_sshd 2>&1 || echo failed"""
    assert call(code, text=text) == (
        "reset-failed ssh.service ssh.socket\ntry-restart ssh\n"
        if times == 1
        else "Missing privilege separation directory\nfailed\n"
    )
    # To restart it again and again would be the end of it: systemd refuses the sixth start in ten seconds.
    assert len((tmp_path / "asked").read_text()) == (2 if times == 1 else 5)


@pytest.mark.parametrize("switched", [True, False])
def test_sshd_is_restarted_once_by_its_rules_and_the_switch_of_the_host_key_together(
    tmp_path: Path, switched: bool
) -> None:
    text = TEXT.replace("SSHD=/etc/ssh/sshd_config.d/00-clawdet.conf", f"SSHD={tmp_path}/rules")
    text = text.replace("RECORD=/var/lib/clawdet\n", f"RECORD={tmp_path}\n").replace(
        "/run/clawdet-sshd", f"{tmp_path}/sshd"
    )
    text = text.replace("/run/sshd", f"{tmp_path}/run")
    if switched:
        (tmp_path / "host-key").touch()
    code = """
sshd() { :; }; systemctl() { [[ $1 != try-restart ]] || echo restarted; }
do_sshd; echo "${SSHD_WAITS:-done}"
"""
    assert call(code, text=text) == ("restarted\ndone\n" if switched else "yes\n")
    assert (tmp_path / "rules").read_text() == call("sshd_rules")


@pytest.mark.parametrize("came", [True, False])
def test_where_no_switch_of_the_host_key_came_sshd_takes_its_rules_at_the_end(tmp_path: Path, came: bool) -> None:
    text = TEXT.replace("/usr/local/bin/", f"{tmp_path}/").replace("RECORD=/var/lib/clawdet\n", f"RECORD={tmp_path}\n")
    for name in ("node", "caddy", "openclaw"):
        (tmp_path / name).write_text("#!/bin/sh\necho v1 1\n")
        (tmp_path / name).chmod(0o755)
    if came:
        (tmp_path / "host-key").touch()
    given = dict.fromkeys(("node_version", "openclaw_version", "caddy_version"), "1")
    given |= dict.fromkeys(("node_executable_sha256", "caddy_executable_sha256", "lock_sha256"), "0")
    code = "systemctl() { :; }; node() { echo v1; }; restart_sshd() { echo restarted; }; SSHD_WAITS=yes; do_prepared"
    (tmp_path / "node").write_text("#!/bin/sh\necho v1\n")
    assert call(code, text=text, **given) == ("" if came else "restarted\n")


def test_needrestart_is_told_once_and_spares_what_is_ours(tmp_path: Path) -> None:
    text = TEXT.replace("/etc/needrestart/conf.d", f"{tmp_path}/conf.d")
    rules = tmp_path / "conf.d/clawdet.conf"
    call("spare_from_needrestart", text=text)
    first = rules.stat()
    call("spare_from_needrestart", text=text)
    assert (rules.stat().st_ino, rules.stat().st_mode & 0o777) == (first.st_ino, 0o644)
    if shutil.which("perl") is None:
        pytest.skip("perl, in which needrestart is written, is not installed")
    units = ["clawdet-prepare.service", "clawdet-configure.service", "clawdet-ahead.service"]
    units += ["openclaw-gateway.service", "caddy.service", "ssh.service", "my-clawdet-x.service"]
    spared = """
    my %nrconf; eval join "", <STDIN>;
    for my $unit (@ARGV) { print "$unit\\n" if grep { $unit =~ $_ } keys %{$nrconf{override_rc}} }
    """
    with rules.open() as given:
        done = subprocess.run(
            ["perl", "-e", spared, *units], stdin=given, capture_output=True, text=True, check=True, timeout=20
        )
    assert done.stdout.split() == units[:4]


APT = """
SCRATCH={folder}; SECONDS=0
sleep() {{ SECONDS=$((SECONDS + $1)); }}
apt-get() {{
  echo x >>{folder}/tries
  (($(wc -l <{folder}/tries) > {fails})) || {{ echo "{words}" >&2; return 100; }}
}}
"""
HELD = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 77 (apt-get)"


@pytest.mark.parametrize(
    ("fails", "words", "told"),
    [
        (25, HELD, "Waiting for apt, which is locked by process 77 (apt-get).\ntold: \n"),
        (999, HELD, "locked by process 77 (apt-get).\ntold: apt is locked by process 77 (apt-get), for 300 seconds\n"),
        (5, "E: Failed to fetch", "told: \n"),
        (6, "E: Failed to fetch", "told: apt-get update failed six times\n"),
    ],
)
def test_a_lock_of_apt_is_waited_for_and_its_holder_named(tmp_path: Path, fails: int, words: str, told: str) -> None:
    text = TEXT.replace("trap on_exit EXIT", """trap 'echo "told: $REASON"; exit 0' EXIT""")
    said = call(APT.format(folder=tmp_path, fails=fails, words=words) + "apt_update", text=text)
    assert said.endswith(told)
    assert said.count("Waiting") == (words == HELD)


def test_whoever_holds_dpkg_is_named_too(tmp_path: Path) -> None:
    text = TEXT.replace("trap on_exit EXIT", """trap 'echo "told: $REASON"; exit 0' EXIT""")
    stub = APT.format(folder=tmp_path, fails=9, words=HELD.replace("apt/lists/lock", "dpkg/lock-frontend"))
    said = call(stub + "apt upgrade", text=text)
    assert said.endswith("told: apt-get upgrade failed: apt is locked by process 77 (apt-get), for 300 seconds\n")
    (tmp_path / "tries").unlink()
    said = call(APT.format(folder=tmp_path, fails=9, words="E: dpkg was interrupted") + "apt upgrade", text=text)
    assert said.endswith("told: apt-get upgrade failed\n")


SWAP = """
SCRATCH={folder}
memory_mib() {{ echo 3788; }}; systemd-detect-virt() {{ return 1; }}; mkswap() {{ :; }}
fallocate() {{ : >"$3"; }}
swapon() {{ if [[ $1 != --show ]]; then {swapon} && : >{folder}/on; elif [[ -e {folder}/on ]]; then echo on; fi; }}
step swap 'Add swap'; echo "$NO_SWAP"
"""


@pytest.mark.parametrize("swapon", ["true", "false"])
def test_a_failure_of_swap_is_a_warning(tmp_path: Path, swapon: str) -> None:
    (tmp_path / "fstab").write_text("LABEL=root / ext4 defaults 0 1\n")
    text = TEXT.replace("/etc/fstab", f"{tmp_path}/fstab").replace("/swapfile", f"{tmp_path}/swapfile")
    said = call(SWAP.format(folder=tmp_path, swapon=swapon), text=text).splitlines()
    assert said[0] == "@step begin swap Add swap"
    assert said[-2].startswith("@step done swap ")
    assert ("Warning: no swap could be added; the reason is above." in said) is (swapon == "false")
    assert said[-1] == ("yes" if swapon == "false" else "")
    assert [path.name for path in sorted(tmp_path.glob("swapfile*"))] == (["swapfile"] if swapon == "true" else [])
    assert (tmp_path / "fstab").read_text().count("none swap sw") == (swapon == "true")


@pytest.mark.parametrize(("lacks", "closed"), [("", True), ("ip daddr", False), ("ip6 daddr", False), ("skuid", False)])
def test_the_metadata_service_is_closed_when_it_is_by_both_of_its_addresses(lacks: str, closed: bool) -> None:
    shown = [
        f"{line.strip()} with icmp port-unreachable" for line in call("metadata_rules").splitlines() if "daddr" in line
    ]
    assert len(shown) == 2
    kept = "\n".join(line for line in shown if not lacks or lacks not in line)
    code = f"nft() {{ echo '{kept}'; }}; metadata_is_closed && echo closed || echo open"
    assert call(code) == ("closed\n" if closed else "open\n")


def test_what_restarts_the_gateway_at_its_quiet_hour_can_do_nothing_else() -> None:
    unit = call("refresh_unit")
    assert "CapabilityBoundingSet=CAP_SYS_PTRACE\n" in unit
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "PrivateTmp=yes", "MemoryDenyWriteExecute=yes"):
        assert f"\n{line}\n" in unit
    assert re.findall(r"(?m)^ExecStart=(.*)$", unit) == ["+systemctl try-restart openclaw-gateway"]
    assert "Persistent" not in call("refresh_timer")


def test_units_are_read_anew_only_where_they_changed() -> None:
    for changed in ("yes", "no"):
        code = f"systemctl() {{ [[ $1 == show ]] && echo {changed} || echo $1; }}; reload_units"
        assert call(code) == ("daemon-reload\n" if changed == "yes" else "")


@pytest.mark.parametrize(
    ("code", "state", "told"),
    [(143, "stopping", True), (1, "stopping", True), (143, "running", False), (1, "", False)],
)
def test_what_a_restart_of_the_machine_ended_says_so_whatever_failed(code: int, state: str, told: bool) -> None:
    functions = TEXT[: TEXT.index('\ncase "$VERB')]
    ended = f"systemctl() {{ echo {state}; }}; VERB=prepare STEP=caddy REASON='something'; exit {code}"
    done = subprocess.run(
        ["bash"], input=f"{functions}\n{ended}", capture_output=True, text=True, check=False, timeout=60
    )
    reason = bootstrap.GOING_DOWN if told else "something"
    assert done.stdout.splitlines()[0] == f"@step fail caddy {code} {reason}"
