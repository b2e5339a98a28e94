"""What a gateway that runs takes over as it is: a key, a new token, its user. It is not started again for any of it."""

import re
from collections.abc import Iterator

import pytest

from tests.e2e.operator import Operator

pytestmark = pytest.mark.real

USER = "hot"
SCRIPT = "bash /usr/local/lib/clawdet/provision-openclaw.sh"
STATE = "/var/lib/openclaw/.openclaw"
KEYS = "sk-ant-of-a-test-1", "sk-ant-of-a-test-2"

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
    yield Machine(real_sandbox)
    real_sandbox.clawdet("destroy", USER, "--sandbox", "--yes")


def test_a_running_gateway_takes_over_what_is_new(machine: Machine) -> None:
    machine.provision()
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
