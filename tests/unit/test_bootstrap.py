import base64
import bz2
import io
import json
import os
import shlex
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from clawdet_cli import bootstrap, pins
from clawdet_cli.bootstrap import ScriptLine, UnitState, parse_follow, parse_line
from clawdet_cli.errors import ConfigError, GuestError
from clawdet_cli.model import Instance, Status
from clawdet_cli.secret import Secret
from clawdet_cli.settings import Settings, load

ODD_FOLDER = "/run/clawdet/it's; $(id) here"
KEY = "sk-0123456789abcdef"
UNPACK = (
    'python3 -c "import bz2, sys; sys.stdout.buffer.write(bz2.open(sys.argv[1]).read())"'
    " /run/clawdet/boot/provision-openclaw.sh.bz2"
)


def settings(tmp_path: Path, **keys: str) -> Settings:
    return load(
        {"state": tmp_path}, {"CLAWDET_CONFIG": str(tmp_path / "none"), **keys}, default_openclaw=default_version()
    )


def default_version() -> str:
    return pins.load().default_openclaw


def instance() -> Instance:
    return Instance("alice", "example.com", "abcdef012345", Status.INSTALLING, False, "now", "now")


class TestCommands:
    def test_upload(self) -> None:
        assert bootstrap.upload("/run/clawdet/0a1b") == (
            "umask 077; rm -f /run/clawdet/*/input; rm -rf /run/clawdet/0a1b && mkdir -p /run/clawdet/0a1b"
            " && tar -x -C /run/clawdet/0a1b --no-same-owner"
        )

    def test_start(self) -> None:
        assert bootstrap.start("prepare", "/run/clawdet/0a1b") == (
            'if [ "$(systemctl show -P ActiveState clawdet-prepare.service)" = activating ];'
            " then echo attached; exit; fi;"
            " systemctl stop clawdet-prepare.service 2>/dev/null;"
            " systemctl reset-failed clawdet-prepare.service 2>/dev/null;"
            " install -d -m 700 /var/log/clawdet && rm -f /var/log/clawdet/prepare.log"
            " && touch /var/log/clawdet/prepare.log"
            " && systemd-run --quiet --no-block --unit=clawdet-prepare.service"
            " -p Type=oneshot -p RemainAfterExit=yes -p TimeoutStartSec=30min -p StandardInput=null"
            " -p StandardOutput=append:/var/log/clawdet/prepare.log -p StandardError=inherit"
            " /bin/bash /run/clawdet/0a1b/provision-openclaw.sh prepare /run/clawdet/0a1b/input"
            " && echo started"
        )

    def test_follow(self) -> None:
        assert bootstrap.follow("configure", 1000, gather=0.3) == (
            "p=$(systemctl show -P MainPID clawdet-configure.service); if [ $p -gt 0 ];"
            " then timeout 0.3 tail --pid=$p -s 0.1 -f /dev/null;"
            " timeout 5 tail --pid=$p -s 0.1 -c +1001 -f /var/log/clawdet/configure.log 2>/dev/null"
            " | head -c 1 >/dev/null; fi;"
            " systemctl show -p ActiveState -p Result -p ExecMainStatus clawdet-configure.service | tr '\\n' ' ';"
            " size=$(stat -c %s /var/log/clawdet/configure.log);"
            " end=$((size < 263144 ? size : 263144));"
            ' echo "Offset=$end"; tail -c +1001 /var/log/clawdet/configure.log | head -c $((end - 1000))'
        )

    def test_installed(self) -> None:
        assert bootstrap.installed("certificate-request", "alice.example.com") == (
            "/bin/bash /usr/local/lib/clawdet/provision-openclaw.sh certificate-request alice.example.com"
        )

    def test_what_user_data_begins_is_the_same_unit_once_cloud_init_has_written_its_files(self) -> None:
        begun = bootstrap.start_at_boot()
        folders, _, units = begun.partition(" && ")
        unit, _, ahead = units.partition("; systemd-run ")
        assert folders == "mkdir -p -m 700 /run/clawdet /run/clawdet/boot"
        after = ' -p After="cloud-init.service cloud-init-network.service"'
        assert after in unit
        script, given = "/run/clawdet/boot/provision-openclaw.sh", "/run/clawdet/boot/input"
        unpacked = f" /bin/sh -c '{UNPACK} >{script} && exec /bin/bash {script} prepare {given}'"
        started = unit.replace(after, "").replace(unpacked, f" /bin/bash {script} prepare {given}")
        assert bootstrap.start("prepare", "/run/clawdet/boot").endswith(f"{started} && echo started")
        # What comes before the boot is over may wait for nothing of it.
        assert "-p DefaultDependencies=no" in ahead
        assert "After=" not in ahead
        waits = f"until [ -s /run/clawdet/boot/mark ]; do sleep 0.05; done; {UNPACK} >{script}.ahead && "
        assert shlex.split(ahead)[-1] == f"{waits}exec /bin/bash {script}.ahead ahead {given}"

    def test_what_unpacks_the_script_at_boot_gives_it_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "script.bz2").write_bytes(bz2.compress(bootstrap.script()))
        unpack = UNPACK.replace("/run/clawdet/boot/provision-openclaw.sh.bz2", str(tmp_path / "script.bz2"))
        done = subprocess.run(["sh", "-c", unpack], check=True, capture_output=True, env={"PATH": os.environ["PATH"]})
        assert done.stdout == bootstrap.script()

    @pytest.mark.parametrize(
        "command",
        [
            bootstrap.upload(ODD_FOLDER),
            bootstrap.start_at_boot(),
            bootstrap.join_boot("0a1b"),
            bootstrap.start("prepare", ODD_FOLDER),
            bootstrap.follow("prepare", 0),
            bootstrap.installed("token", ODD_FOLDER),
        ],
    )
    def test_every_command_is_bash(self, command: str) -> None:
        subprocess.run(["bash", "-n", "-c", command], check=True)

    def test_arguments_stay_what_they_are(self) -> None:
        assert shlex.split(bootstrap.installed("token", ODD_FOLDER, "a b"))[2:] == ["token", ODD_FOLDER, "a b"]
        assert shlex.split(bootstrap.upload(ODD_FOLDER)).count(ODD_FOLDER) == 3
        words = shlex.split(bootstrap.start("prepare", ODD_FOLDER))
        assert f"{ODD_FOLDER}/provision-openclaw.sh" in words
        assert f"{ODD_FOLDER}/input" in words


class TestFollow:
    """Run as it is, but for the log's place, and for patience that nobody here has."""

    @pytest.fixture
    def log(self, tmp_path: Path) -> Path:
        log = tmp_path / "prepare.log"
        log.write_text("first\n")
        return log

    @pytest.fixture
    def phase(self) -> Iterator[subprocess.Popen[bytes]]:
        phase = subprocess.Popen(["sleep", "600"])
        yield phase
        phase.kill()
        phase.wait()

    def follow(self, log: Path, pid: int, offset: int) -> subprocess.Popen[str]:
        state = "ActiveState=activating\nResult=success\nExecMainStatus=0\n"
        systemctl = log.parent / "systemctl"
        systemctl.write_text(f'#!/bin/sh\n[ "$3" = MainPID ] && echo {pid} || printf "{state}"\n')
        systemctl.chmod(0o755)
        command = bootstrap.follow("prepare", offset).replace("/var/log/clawdet", str(log.parent))
        return subprocess.Popen(
            ["bash", "-c", command.replace("timeout 5 ", "touch asked; timeout 600 ")],
            cwd=log.parent,
            env={"PATH": f"{log.parent}:/usr/bin:/bin"},
            stdout=subprocess.PIPE,
            text=True,
        )

    @pytest.mark.parametrize("pid", [0, None])
    def test_what_is_there_already_comes_at_once(
        self, log: Path, phase: subprocess.Popen[bytes], pid: int | None
    ) -> None:
        out, _ = self.follow(log, phase.pid if pid is None else pid, 0).communicate(timeout=60)
        state, news = parse_follow(out)
        assert (state.running, state.offset, news) == (True, 6, "first\n")

    def test_news_end_the_wait(self, log: Path, phase: subprocess.Popen[bytes]) -> None:
        asked = self.follow(log, phase.pid, 6)
        while not (log.parent / "asked").exists():
            assert asked.poll() is None
        assert asked.poll() is None
        with log.open("a") as file:
            file.write("second\n")
        out, _ = asked.communicate(timeout=60)
        assert parse_follow(out)[1] == "second\n"

    def test_so_does_the_end_of_the_phase(self, log: Path, phase: subprocess.Popen[bytes]) -> None:
        asked = self.follow(log, phase.pid, 6)
        phase.kill()
        phase.wait()
        out, _ = asked.communicate(timeout=60)
        assert parse_follow(out)[1] == ""


class TestPackage:
    def test_it_holds_files_for_the_owner_alone(self) -> None:
        files = {"provision-openclaw.sh": bootstrap.script(), "input": b"host=a\n", "package.json": b"{}"}
        packed = bootstrap.package(files)
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            members = archive.getmembers()
            content = {member.name: archive.extractfile(member) for member in members}
            assert [member.name for member in members] == ["provision-openclaw.sh", "input", "package.json"]
            assert all(member.isreg() and member.mode == 0o600 for member in members)
            assert {name: file.read() for name, file in content.items() if file} == files

    def test_uploading_replaces_what_was_there_and_shows_it_to_nobody(self, tmp_path: Path) -> None:
        folder = tmp_path / "it's; $(touch oops) here"
        folder.mkdir(mode=0o755)
        (folder / "old").touch()
        packed = bootstrap.package({"provision-openclaw.sh": b"true", "input": b"host=a\n"})
        subprocess.run(["sh", "-c", bootstrap.upload(str(folder))], input=packed, check=True, cwd=tmp_path)
        assert sorted(path.name for path in folder.iterdir()) == ["input", "provision-openclaw.sh"]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())
        assert [path.name for path in tmp_path.iterdir()] == [folder.name]

    def test_the_script_is_the_one_of_this_version(self) -> None:
        assert bootstrap.script().startswith(b"#!")

    def test_an_installation_without_the_script_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bootstrap, "__file__", str(tmp_path / "package" / "bootstrap.py"))
        with pytest.raises(ConfigError, match=r"provision-openclaw\.sh is missing"):
            bootstrap.script()


SYSTEMCTL = """#!/bin/sh
echo "systemctl $*" >>"$CALLS"
case "$*" in
  "show -P ActiveState "*) echo "$ACTIVE_STATE" ;;
  "show "*) printf 'ActiveState=%s\\nResult=success\\nExecMainStatus=0\\n' "$ACTIVE_STATE" ;;
esac
"""

SYSTEMD_RUN = """#!/bin/sh
echo "systemd-run $*" >>"$CALLS"
"""


class Machine:
    """Runs commands meant for a VPS in a shell here; systemd's own are replaced, since they need a system to run."""

    def __init__(self, folder: Path) -> None:
        self.programs = folder / "bin"
        self.programs.mkdir()
        self.calls = folder / "calls"
        self.calls.touch()
        self.logs = folder / "log"
        self.state = "active"
        for name, text in (("systemctl", SYSTEMCTL), ("systemd-run", SYSTEMD_RUN)):
            (self.programs / name).write_text(text)
            (self.programs / name).chmod(0o755)

    def run(self, command: str) -> str:
        environment = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "CALLS": str(self.calls),
            "ACTIVE_STATE": self.state,
        }
        done = subprocess.run(["bash", "-c", command], check=True, capture_output=True, env=environment)
        return done.stdout.decode(errors="replace")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(tmp_path)
    monkeypatch.setattr(bootstrap, "LOG_FOLDER", str(found.logs))
    return found


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="the commands are meant for GNU's stat")
class TestExchange:
    def test_a_phase_starts_with_an_empty_log_in_a_private_folder(self, machine: Machine) -> None:
        machine.state = "inactive"
        machine.logs.mkdir()
        (machine.logs / "prepare.log").write_text("of an earlier run")
        assert machine.run(bootstrap.start("prepare", "/run/x")).split() == ["started"]
        assert (machine.logs / "prepare.log").read_text() == ""
        assert stat.S_IMODE(machine.logs.stat().st_mode) == 0o700
        assert (
            machine.calls.read_text()
            .splitlines()[-1]
            .endswith("/bin/bash /run/x/provision-openclaw.sh prepare /run/x/input")
        )

    def test_a_phase_that_runs_is_attached_to_and_left_alone(self, machine: Machine) -> None:
        machine.state = "activating"
        machine.logs.mkdir()
        (machine.logs / "prepare.log").write_text("of a run that goes on")
        assert machine.run(bootstrap.start("prepare", "/run/x")).split() == ["attached"]
        assert (machine.logs / "prepare.log").read_text() == "of a run that goes on"
        assert "systemd-run" not in machine.calls.read_text()

    def test_following_gives_each_byte_of_the_log_once(self, machine: Machine) -> None:
        machine.logs.mkdir()
        log = machine.logs / "prepare.log"
        log.write_text("@step begin node\n")
        state, text = parse_follow(machine.run(bootstrap.follow("prepare", 0)))
        assert (state.ok, state.offset, text) == (True, 17, "@step begin node\n")
        with log.open("a") as file:
            file.write("läuft\n\nhalf a li")
        state, text = parse_follow(machine.run(bootstrap.follow("prepare", state.offset)))
        assert (state.offset, text) == (34, "läuft\n\nhalf a li")
        state, text = parse_follow(machine.run(bootstrap.follow("prepare", state.offset)))
        assert (state.offset, text) == (34, "")

    def test_following_a_flood_takes_it_in_pieces(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bootstrap, "MAX_NEWS", 10)
        machine.state = "activating"
        machine.logs.mkdir()
        (machine.logs / "prepare.log").write_text("0123456789abcdefghijXYZ")
        pieces, offset = [], 0
        while offset < 23:
            state, text = parse_follow(machine.run(bootstrap.follow("prepare", offset)))
            assert state.running
            pieces.append(text)
            offset = state.offset
        assert pieces == ["0123456789", "abcdefghij", "XYZ"]


class TestParseFollow:
    @pytest.mark.parametrize(
        ("first", "running", "ok"),
        [
            ("ActiveState=activating Result=success ExecMainStatus=0", True, False),
            ("ActiveState=reloading Result=success ExecMainStatus=0", True, False),
            ("ActiveState=active Result=success ExecMainStatus=0", False, True),
            ("ActiveState=failed Result=exit-code ExecMainStatus=1", False, False),
            ("ActiveState=failed Result=timeout ExecMainStatus=15", False, False),
            ("ActiveState=inactive Result=success ExecMainStatus=0", False, False),
            ("ActiveState=active Result=exit-code ExecMainStatus=1", False, False),
            ("ExecMainStatus=0 Result=success ActiveState=active", False, True),
            ("", False, False),
        ],
    )
    def test_the_units_state(self, first: str, running: bool, ok: bool) -> None:
        whole = f"{first} Offset=7".strip()
        assert parse_follow(f"{whole}\na\nb=c\n") == (UnitState(running, ok, 7, first), "a\nb=c\n")

    @pytest.mark.parametrize(
        "answer",
        [
            "",
            "\n",
            "ActiveState=active\n",
            "Offset=\n",
            "Offset=-1\n",
            "Offset=1.5\n",
            "Offset=\N{SUPERSCRIPT TWO}\n",
            "Offset=\N{ARABIC-INDIC DIGIT THREE}\n",
            pytest.param("Offset=" + "9" * 5000, id="huge"),
            "log\nOffset=5\n",
            "bash: stat: command not found",
        ],
    )
    def test_an_answer_without_an_offset_is_the_servers_fault(self, answer: str) -> None:
        with pytest.raises(GuestError, match="no readable answer") as caught:
            parse_follow(answer)
        assert len(caught.value.details[0]) <= 200


class TestParseLine:
    @pytest.mark.parametrize(
        ("line", "parsed"),
        [
            ("@steps 3 system node caddy", ScriptLine("steps", text="3 system node caddy")),
            ("@step begin node installing Node 24", ScriptLine("begin", "node", "installing Node 24")),
            ("@step begin node", ScriptLine("begin", "node")),
            ("@step done node 1250", ScriptLine("done", "node", seconds=1.25)),
            ("@step done node 0\n", ScriptLine("done", "node")),
            ("@step skip caddy", ScriptLine("skip", "caddy")),
            ("@step fail node 22 no route to host", ScriptLine("fail", "node", "no route to host")),
            (
                "@result ok host=alice.example.com address=192.0.2.1",
                ScriptLine("result", text="ok", values={"host": "alice.example.com", "address": "192.0.2.1"}),
            ),
            ("@result ok", ScriptLine("result", text="ok", values={})),
            (
                "@result failed step=node code=22",
                ScriptLine("result", text="failed", values={"step": "node", "code": "22"}),
            ),
            ("@result ok a=b=c", ScriptLine("result", text="ok", values={"a": "b=c"})),
        ],
    )
    def test_a_line_for_machines(self, line: str, parsed: ScriptLine) -> None:
        assert parse_line(line) == parsed

    @pytest.mark.parametrize(
        "line",
        [
            "",
            " ",
            "added 312 packages in 9s",
            "@step",
            "@step done",
            "@step done node",
            "@step done node soon",
            "@step done node -5",
            "@step done node 1.5",
            "@step done node 5 more",
            "@step done node \N{SUPERSCRIPT TWO}",
            "@step done node \N{ARABIC-INDIC DIGIT THREE}",
            pytest.param("@step done node " + "9" * 5000, id="huge"),
            "@step explode node",
            "@result",
            "@resultok",
            " @step begin node",
            "see @step begin node",
            "\x1b[31m@step begin node",
        ],
    )
    def test_any_other_line_is_for_people(self, line: str) -> None:
        assert parse_line(line) is None

    def test_hostile_text_is_only_text(self) -> None:
        assert parse_line("@step begin node $(reboot) \x1b]0;x\x07 <b>") == ScriptLine(
            "begin", "node", "$(reboot) \x1b]0;x\x07 <b>"
        )
        found = parse_line("@result ok Bad-Key=1 =2 key=<script> \udcff")
        assert found == ScriptLine("result", text="ok", values={"key": "<script>"})


def test_values_are_read_from_lines() -> None:
    assert bootstrap.parse_values("unit=active\nrestarts=0\nplain text\nX=1\nempty=\n") == {
        "unit": "active",
        "restarts": "0",
        "empty": "",
    }


class TestInput:
    def test_configure_has_this_users_host_certificate_model_and_keys(self, tmp_path: Path) -> None:
        pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        made = bootstrap.configure_input(settings(tmp_path, XAI_API_KEY=KEY), instance(), pem)
        assert bootstrap.input_file(made).decode() == (
            "host=alice.example.com\n"
            "user=alice\n"
            f"certificate_base64={base64.b64encode(pem.encode()).decode()}\n"
            f"model={pins.load().for_openclaw(default_version(), 'x86').models['XAI_API_KEY']}\n"
            f"key_XAI_API_KEY={KEY}\n"
        )

    def test_configure_without_any_key_has_an_empty_model(self, tmp_path: Path) -> None:
        made = bootstrap.configure_input(settings(tmp_path), instance(), "x")
        assert made["model"] == ""

    @pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
    def test_a_value_with_more_lines_is_refused_and_not_shown(self, tmp_path: Path, end: str) -> None:
        found = settings(tmp_path)
        found = replace(found, provider_keys={"XAI_API_KEY": Secret(f"{KEY}{end}host=evil.example")})
        with pytest.raises(GuestError, match="key_XAI_API_KEY") as caught:
            bootstrap.input_file(bootstrap.configure_input(found, instance(), "x"))
        assert KEY not in f"{caught.value.what}{caught.value.next_steps}{caught.value.details}"

    @pytest.mark.parametrize("architecture", ["x86", "arm"])
    def test_prepare_has_the_pinned_versions_and_the_lock_beside_it(self, tmp_path: Path, architecture: str) -> None:
        pinned = pins.load().for_openclaw(default_version(), architecture)
        values = bootstrap.prepare_input(settings(tmp_path), default_version(), architecture)
        assert values == pinned.script_input()
        assert bootstrap.prepare_files(default_version()) == {
            "packages.js": pins.packages_program(),
            "package.json": pinned.package_json,
            "package-lock.json": pinned.package_lock,
        }

    def test_prepare_takes_a_mirrors_archives_and_still_the_pinned_executables(self, tmp_path: Path) -> None:
        found = settings(tmp_path)
        pinned = pins.load().for_openclaw(default_version(), "x86")
        mirror = {
            f"{pinned.node_version}/x86": {"node_url": "http://127.0.0.1/n", "node_archive_sha256": "0" * 64},
            f"{pinned.node_version}/arm": {"node_url": "http://127.0.0.1/other"},
        }
        found = replace(found, endpoints=replace(found.endpoints, artifacts=mirror))
        values = bootstrap.prepare_input(found, default_version(), "x86")
        assert (values["node_url"], values["node_archive_sha256"]) == ("http://127.0.0.1/n", "0" * 64)
        assert values["node_executable_sha256"] == pinned.node.executable_sha256

    def test_prepare_knows_no_processor_that_is_not_pinned(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError):
            bootstrap.prepare_input(settings(tmp_path), default_version(), "")


def test_a_gateway_token_is_what_a_header_and_a_terminal_can_take() -> None:
    assert bootstrap.parse_token(f"{KEY}{KEY}\n").reveal() == KEY + KEY


@pytest.mark.parametrize(
    "answer", ["", "\n", "short", f"{KEY}\n{KEY}", f"{KEY}{KEY}\x1b[2J", f"{KEY} {KEY}", KEY * 100]
)
def test_anything_else_is_refused_and_not_shown(answer: str) -> None:
    with pytest.raises(GuestError) as refusal:
        bootstrap.parse_token(answer)
    assert KEY not in f"{refusal.value.what} {refusal.value.details}"


@pytest.mark.parametrize(("text", "number"), [("61", 61), ("", 0), ("-1", 0), ("1e3", 0), ("\u0663", 0), ("9" * 99, 0)])
def test_a_number_is_read_or_is_none(text: str, number: int) -> None:
    assert bootstrap.parse_number(text) == number


def test_what_a_vps_says_that_it_installed_is_kept_when_it_looks_like_that() -> None:
    said = {"openclaw_version": "2026.9.6", "node_version": "24.21.0", "node_sha256": "ab" * 32, "address": "192.0.2.1"}
    text = f"openclaw_version=2026.9.6 node_version=24.21.0 node_sha256={'ab' * 32}"
    assert bootstrap.installed_text({**said, "caddy_version": "\x1b[2J", "lock_sha256": "a" * 65}) == text
    assert bootstrap.installed_text({}) == ""


class TestDevices:
    ASKING: ClassVar = {
        "requestId": "9ac1d6e3-9246",
        "deviceId": "ab" * 32,
        "platform": "Linux x86_64",
        "clientId": "openclaw-control-ui",
        "scopes": ["operator.read"],
        "remoteIp": "192.0.2.1",
        "ts": 1795494498253,
    }

    def test_who_waits_and_who_is_let_in_is_read(self) -> None:
        paired = {**self.ASKING, "approvedAtMs": 1795494498253}
        del paired["ts"], paired["requestId"]
        found = bootstrap.parse_devices(json.dumps({"pending": [self.ASKING], "paired": [paired]}))
        (waiting,), (known,) = found.pending, found.paired
        assert (waiting.request, waiting.client, waiting.address) == (
            "9ac1d6e3-9246",
            "openclaw-control-ui",
            "192.0.2.1",
        )
        assert waiting.at == "2026-11-24T04:28:18+00:00"
        assert known == replace(waiting, request=None)

    @pytest.mark.parametrize("answer", ["", "[]", "null", '{"pending": []}', '{"pending": 1, "paired": 2}', "[" * 9999])
    def test_another_answer_is_refused(self, answer: str) -> None:
        with pytest.raises(GuestError, match="no readable answer"):
            bootstrap.parse_devices(answer)
        with pytest.raises(GuestError, match="no readable answer"):
            bootstrap.parse_approved(answer)

    @pytest.mark.parametrize(
        "change",
        [{"requestId": "$(reboot)"}, {"requestId": None}, {"deviceId": "\x1b[2J"}, {"deviceId": ["ab" * 32]}],
    )
    def test_an_entry_without_ids_as_they_are_is_left_out(self, change: dict[str, Any]) -> None:
        found = bootstrap.parse_devices(json.dumps({"pending": [{**self.ASKING, **change}, 7], "paired": []}))
        assert found.pending == ()

    def test_words_are_cut_and_numbers_that_are_none_ignored(self) -> None:
        entry = {**self.ASKING, "platform": "x" * 10**6, "clientId": 7, "scopes": "all", "ts": 10**14}
        (found,) = bootstrap.parse_devices(json.dumps({"pending": [entry] * 5, "paired": []})).pending[:1]
        assert (len(found.platform), found.client, found.scopes, found.at) == (120, "", (), "5138-11-16T09:46:40+00:00")

    def test_of_very_many_the_first_are_read(self) -> None:
        found = bootstrap.parse_devices(json.dumps({"pending": [self.ASKING] * 5000, "paired": []}))
        assert len(found.pending) == bootstrap.MOST_DEVICES
