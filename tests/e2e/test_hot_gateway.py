"""What a gateway that runs takes over as it is: a key, a new token, its user. It is not started again for any of it.

And what docs/lost.md has an operator do about it, on a real OpenClaw.
"""

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.documented import arguments, commands
from tests.e2e.device import Device, Refusal
from tests.e2e.operator import Operator

pytestmark = pytest.mark.real

USER = "hot"
SCRIPT = "bash /usr/local/lib/clawdet/provision-openclaw.sh"
STATE = "/var/lib/openclaw/.openclaw"
KEYS = "sk-ant-of-a-test-1", "sk-ant-of-a-test-2"
LINES = commands("docs/lost.md")

# Anthropic's streamed answer, as far as OpenClaw needs it.
FAKE_PROVIDER = """
cat >/tmp/fake.js <<'JS'
require('http').createServer((request, answer) => {
  // OpenClaw asks for other things too, and not with the key.
  const key = request.headers['x-api-key'];
  if (request.url === '/v1/messages') require('fs').appendFileSync('/tmp/seen', `${key}\\n`);
  request.resume().on('end', () => answer.writeHead(400, { 'content-type': 'application/json' })
    .end('{"type":"error","error":{"type":"invalid_request_error","message":"no"}}'));
}).listen(9999, '127.0.0.1');
JS
systemd-run --quiet --unit=fake-provider /usr/local/bin/node /tmp/fake.js
cat >/tmp/edit.js <<JS
const fs = require('fs');
const config = JSON.parse(fs.readFileSync('@STATE@/openclaw.json', 'utf8'));
config.models = { providers: { anthropic: { baseUrl: 'http://127.0.0.1:9999', models: [] } } };
fs.writeFileSync('@STATE@/openclaw.json', JSON.stringify(config));
JS
setpriv --reuid openclaw --regid openclaw --init-groups /usr/local/bin/node - </tmp/edit.js
""".replace("@STATE@", STATE)

EMPTY_TOKEN = (
    'clawdet ssh alice "runuser -u openclaw -- sed -i \'s/TOKEN\\": \\"[^\\"]*/TOKEN\\": \\"/\' '
    '/var/lib/openclaw/.openclaw/secrets.json"'
)
REPLACE_KEY = "clawdet ssh alice 'cat >/root/.ssh/authorized_keys' <~/.ssh/clawdet-new.pub"
SAVE_FILES = "clawdet ssh alice 'tar -C /var/lib/openclaw -cz workspace' >alice.tgz"


class Machine:
    """The VPS of one user, over SSH."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator

    def provision(self, key: str = "") -> None:
        env = {"ANTHROPIC_API_KEY": key} if key else {}
        said = self.operator.clawdet("provision", USER, "--sandbox", "--yes", "--json", env=env)
        assert said.code == 0, said.err[-4000:]

    def run(self, command: str, code: int = 0) -> str:
        said = self.operator.clawdet("ssh", USER, "--sandbox", "--", command)
        assert said.code == code, (said.out, said.err)
        return said.out

    def shell(self, text: str) -> str:
        said = self.operator.clawdet("ssh", USER, "--sandbox", "--", "bash", "-es", stdin=text)
        assert said.code == 0, (said.out, said.err)
        return said.out

    def documented(self, line: str, *, key: Path | None = None, stdin: str | None = None, code: int = 0) -> str:
        """Run a command of docs/lost.md as it stands there, for this user."""
        assert line in LINES
        words = [USER if word == "alice" else word for word in arguments(line)]
        if key is not None and "--ssh-key" in words:
            words[words.index("--ssh-key") + 1] = str(key)
        env = {"CLAWDET_SSH_KEY": str(key)} if key is not None else {}
        words[1:1] = ["--sandbox"]
        said = self.operator.clawdet(*words, env=env, stdin=stdin)
        assert said.code == code, (said.out, said.err)
        return said.out

    def device(self) -> Device:
        """Return a new browser that knows which build the gateway's web interface has."""
        info = self.operator.info()
        new = Device(f"{USER}.{info['zone']}", info["edge_address"], info["ca_file"])
        waits = new.connect(self.token)
        assert isinstance(waits, Refusal), waits
        assert waits.code == "PAIRING_REQUIRED"
        said = self.operator.clawdet("approve", USER, "--yes", "--sandbox")
        assert said.code == 0, said.err
        other_build = new.connect(self.token)
        assert isinstance(other_build, Refusal), other_build
        return replace(new, build_id=other_build.details["gatewayBuildId"])

    @property
    def life(self) -> str:
        return self.run("systemctl show -p MainPID -p NRestarts openclaw-gateway")

    @property
    def token(self) -> str:
        return self.run(f"{SCRIPT} token").strip()

    def asks_the_provider(self) -> str:
        """Give the key that the provider was shown last."""
        self.run("rm -f /tmp/seen; openclaw agent --agent main --message 'say hi' >/dev/null 2>&1 || true")
        return self.run("cat /tmp/seen").splitlines()[-1]


@pytest.fixture(scope="module")
def machine(real_sandbox: Operator) -> Iterator[Machine]:
    made = Machine(real_sandbox)
    made.provision()
    yield made
    real_sandbox.clawdet("destroy", USER, "--sandbox", "--yes")


def test_a_running_gateway_takes_over_what_is_new(machine: Machine) -> None:
    life, token = machine.life, machine.token
    # It was started with its user, whose configuration waited for that.
    log = machine.run("journalctl --unit=openclaw-gateway --output=cat --no-pager")
    assert log.count("Started openclaw-gateway") == 1
    assert "config hot reload applied" not in log
    machine.shell(FAKE_PROVIDER)
    for key in KEYS:
        machine.provision(key)
        assert machine.asks_the_provider() == key
        assert (machine.life, machine.token) == (life, token)
    assert "config hot reload applied (models" in machine.run("journalctl -u openclaw-gateway -o cat --no-pager")
    secrets = machine.run(f"cat {STATE}/secrets.json")
    assert KEYS[0] not in secrets
    assert KEYS[1] in secrets
    assert KEYS[1] not in machine.run(f"cat {STATE}/openclaw.json")
    assert machine.run(f"test -e {STATE}/.env || echo none") == "none\n"

    # As if it had waited for its user.
    first = machine.run(f"rm /var/lib/clawdet/configured; {SCRIPT} claim abcdefabcde1")
    assert re.search(r"^next=ssh-ed25519 ", first, re.MULTILINE)
    assert machine.run(f"{SCRIPT} claim abcdefabcde1") == first
    machine.run(f"{SCRIPT} claim abcdefabcde2", 4)
    machine.run(f"{SCRIPT} claim short", 2)
    machine.provision(KEYS[1])
    new = machine.token
    assert new != token
    machine.provision(KEYS[1])
    assert (machine.life, machine.token) == (life, new)


def test_openclaw_finds_nothing_to_complain_of(machine: Machine) -> None:
    assert "0 critical · 0 warn" in machine.run("openclaw security audit")


def test_a_new_gateway_token_shuts_out_all_who_have_the_old_one_and_a_removed_browser_is_out(
    machine: Machine,
) -> None:
    browser = machine.device()
    life, token = machine.life, machine.token
    greeting = browser.connect(token)
    assert isinstance(greeting, dict), greeting
    own = greeting["auth"]["deviceToken"]
    machine.documented(EMPTY_TOKEN)
    machine.documented("clawdet provision alice")
    new = machine.documented("clawdet token alice").strip()
    assert (len(new) >= 32, new != token, machine.life) == (True, True, life)
    assert _refused(browser.connect(token)) == "AUTH_TOKEN_MISMATCH"
    log = machine.documented("clawdet ssh alice journalctl -u openclaw-gateway")
    assert "token_mismatch" in log
    assert (token in log, new in log) == (False, False)
    # The token of its own, which a paired browser got with the old one; it is still paired, and the new one lets it in.
    assert _refused(browser.connect(own, paired=True)) == "AUTH_DEVICE_TOKEN_MISMATCH"
    greeting = browser.connect(new)
    assert isinstance(greeting, dict), greeting
    own = greeting["auth"]["deviceToken"]
    assert isinstance(browser.connect(own, paired=True), dict)
    assert browser.id in machine.documented("clawdet ssh alice openclaw devices list")
    remove = "clawdet ssh alice openclaw devices remove DEVICE"
    assert remove in LINES
    machine.run(f"openclaw devices remove {browser.id}")
    assert _refused(browser.connect(own, paired=True)) == "AUTH_DEVICE_TOKEN_MISMATCH"
    assert _refused(browser.connect(new)) == "PAIRING_REQUIRED"


def _refused(answer: Refusal | dict[str, object]) -> str:
    assert isinstance(answer, Refusal), answer
    return answer.code


def test_the_key_of_a_lost_state_folder_opens_nothing_any_more_once_it_was_replaced(
    machine: Machine, tmp_path: Path
) -> None:
    new = tmp_path / "clawdet-new"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(new)], check=True)
    old = machine.run("cat /root/.ssh/authorized_keys")
    machine.documented(REPLACE_KEY, stdin=new.with_suffix(".pub").read_text())
    try:
        machine.run("true", 255)
        machine.documented("clawdet ssh --ssh-key ~/.ssh/clawdet-new alice true", key=new)
        logins = machine.documented("clawdet ssh alice journalctl -u ssh --grep Accepted", key=new)
        shown = subprocess.run(["ssh-keygen", "-lf", str(new)], check=True, capture_output=True, text=True).stdout
        assert shown.split()[1] in logins.splitlines()[-1]
        assert machine.documented("clawdet ssh alice journalctl --list-boots", key=new).strip()
        assert machine.operator.clawdet("verify", USER, "--sandbox", env={"CLAWDET_SSH_KEY": str(new)}).code == 0
    finally:
        machine.documented(REPLACE_KEY, key=new, stdin=old)
    machine.run("true")


def test_the_users_files_come_as_an_archive(machine: Machine) -> None:
    assert SAVE_FILES in LINES
    listed = machine.run(f"{shlex.split(SAVE_FILES)[3]} | tar -tz")
    assert "workspace/AGENTS.md" in listed.splitlines()


def test_a_configuration_that_openclaw_refuses_is_taken_back(machine: Machine) -> None:
    life = machine.life
    machine.run(f'sed -i \'s/"port": 18789/"port": 18789, "nonsense": 1/\' {STATE}/openclaw.json')
    before = machine.run(f"cat {STATE}/openclaw.json {STATE}/secrets.json")
    said = machine.operator.clawdet(
        "provision", USER, "--sandbox", "--yes", "--json", env={"ANTHROPIC_API_KEY": "sk-ant-of-a-test-3"}
    )
    assert said.code != 0
    assert "OpenClaw refuses the configuration" in said.out + said.err
    assert machine.run(f"cat {STATE}/openclaw.json {STATE}/secrets.json") == before
    assert machine.life == life
