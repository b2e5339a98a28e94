"""What every test of a fault looks at: the whole of stderr, the clouds against the database, and the way on."""

import re
import shlex
from pathlib import Path

from tests.e2e.operator import Operator, Said
from tests.kill.invariants import in_clouds, not_complete, not_empty, rows

ROW_OF = {"servers": "server_id", "records": "record_id", "certificates": "certificate_id"}
INTENT_OF = {
    "servers": ("create_server", "delete_server"),
    "records": ("create_dns_record", "delete_dns_record"),
    "certificates": ("sign_certificate", "revoke_certificate"),
}


def whole(said: Said, operator: Operator) -> str:
    """Give stderr with a placeholder for what differs from run to run, and nothing else left out."""
    text = said.err.replace(str(operator.state), "STATE")
    for pattern, name in (
        (r"Log: \S+", "Log: LOG"),
        (r"127\.\d+\.\d+\.\d+(:\d+)?", "ADDRESS"),
        (r"\b[0-9a-f]{32}\b", "RECORD"),
        (r"\b\d{20,}\b", "CERTIFICATE"),
        (r"action \d+", "action ID"),
        (r"SHA256:\S+", "SHA256:KEY"),
        (r"last seen: (connected, but no SSH yet|the connection was cut)", "last seen: NO SSH"),
        (r"correlation id \S+", "correlation id ID"),
        (r"\bid \d+", "id ID"),
        (r"deletion of \d+", "deletion of ID"),
        (r"\b(server|action|port) \d{4,}", r"\1 ID"),
        (r"process \d+ on \S+, since [^)]*", "process N on HOST, since T"),
        (r"\b\d+(\.\d+)? s\b", "N s"),
    ):
        text = re.sub(pattern, name, text)
    return text.strip()


def ledger_differs(operator: Operator) -> list[str]:
    """Tell what the clouds hold that the database does not account for, by id or by an open intent, or the reverse."""
    found, wrong = in_clouds(operator), []
    living = rows(operator, "SELECT * FROM instances WHERE status != 'destroyed'")
    intents = {row["kind"] for row in rows(operator, "SELECT kind FROM effects WHERE outcome IS NULL")}
    for kind, column in ROW_OF.items():
        there = {str(thing["id"]) for thing in found[kind]}
        recorded = {str(row[column]) for row in living if row[column] is not None}
        make, remove = INTENT_OF[kind]
        if there - recorded and make not in intents:
            wrong.append(f"{kind} {there - recorded} of which the database knows nothing")
        if recorded - there and remove not in intents:
            wrong.append(f"{kind} {recorded - there} that are recorded and not there")
    return wrong


def follow(operator: Operator, said: Said) -> None:
    """Run the first command that a failure printed, with the fault gone: it must set everything right."""
    steps = [line.strip() for line in said.err.partition("\nNext:\n")[2].splitlines()]
    # A remark stands behind the command as the shell's own comment.
    commands = [shlex.split(step, comments=True) for step in steps if step.startswith("clawdet ")]
    runs = [command for command in commands if command[1] in {"provision", "destroy"}]
    assert runs, f"no way on in:\n{said.err}"
    verb = runs[0][1]
    again = operator.clawdet(*runs[0][1:], *(["--yes"] if verb == "destroy" else []))
    assert again.code == 0, again.err
    assert (not_complete(operator, "alice") if verb == "provision" else not_empty(operator)) == []


def leave_nothing(operator: Operator) -> None:
    """Destroy what there is, and require empty clouds."""
    if Path(operator.info()["state_file"]).exists():
        said = operator.clawdet("destroy", "alice", "--sandbox", "--yes")
        assert said.code == 0, said.err
    assert not_empty(operator) == []
