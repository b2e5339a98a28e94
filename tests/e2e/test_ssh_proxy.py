"""A whole provision, and what comes after it, with SSH through a command of the operator's."""

import shlex
import sys
from pathlib import Path

from tests.contract.test_proxy_command import RELAY
from tests.e2e.operator import Operator


def test_an_instance_is_made_and_looked_at_through_a_command(operator: Operator, tmp_path: Path) -> None:
    script, used = tmp_path / "relay.py", tmp_path / "used"
    script.write_text(f"open({str(used)!r}, 'a').write('x')\n{RELAY}")
    proxy = f"{shlex.quote(sys.executable)} {shlex.quote(str(script))} %h %p"
    made = operator.clawdet("provision", "alice", "--sandbox", "--ssh-proxy", proxy)
    assert made.code == 0, made.err
    assert "SSH goes through the command that ssh_proxy names" in made.err
    before = len(used.read_text())
    assert before > 0
    assert operator.clawdet("verify", "alice", "--sandbox", "--ssh-proxy", proxy).code == 0
    assert len(used.read_text()) > before
