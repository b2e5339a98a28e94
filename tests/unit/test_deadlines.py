"""No wait is without an end: read out of the code, against the few that have a reason."""

import ast
from collections.abc import Iterator
from pathlib import Path

import clawdet_cli

ROOT = Path(clawdet_cli.__file__).parent
WAITING = {"join", "wait", "acquire", "recv", "communicate", "result", "select", "accept"}
STARTING = {"run", "call", "check_call", "check_output"}

REASONS = {
    "adapters/edge.py Visitor._converse while": "each message comes before the WebSocket's deadline, or TimeoutError",
    "adapters/websocket.py WebSocket.open while": "each exchange ends at the deadline, with TimeoutError",
    "adapters/websocket.py WebSocket.receive while": "the same; the inner one empties a queue",
    "adapters/answers.py unpacked while": "each turn takes a piece; who asks for them has a deadline",
    "restore.py _alone while": "ends after LOCK_SECONDS",
    "adapters/cloudflare.py Cloudflare._certificates while": "ends at an empty or repeated page; calls have deadlines",
    "adapters/shared.py Flights.ask while": "each round makes a flight or waits for one, until the deadline",
    "adapters/ssh.py _Streams._read while": "the channel has a time-out, renewed from the command's deadline",
    "adapters/ssh.py _pump.up while": "a thread that ends with the connection it serves; nobody waits for it",
    "adapters/ssh.py _pump.down while": "the same",
    "adapters/ssh.py _pump.down result": "the same",
    "adapters/threads.py _Thread.run while": "a thread that waits for the next call; nobody waits for it",
    "cli/ssh.py Command._separated while": "walks through the words of a command line",
    "lease.py _acquire while": "ends with --lock-wait, or after WATCH_SECONDS of watching",
    "lease.py _Heart._beat while": "a thread that ends when the last lease is given back",
    "adapters/fleet_hetzner.py FleetHetzner._every_server while": "counts pages down, after one look at how many",
    "fleet.py _Crew._hand while": "takes one user after the other, until there are none",
    "fleet.py _Crew.work while": "each thread says when it is over, and each run in it has a deadline",
    "stages/bundle.py Line.pieces while": "reads a file; whoever sends the pieces has a deadline",
    "stages/phase.py Phase.end while": "ends at the deadline",
    "private.py _walked while": "walks along a path, and through 40 links at most",
    "adapters/proxy.py _causes while": "walks up the causes of an error, which are finite",
    "stages/network.py Outlook._reach_servers result": "waits for looks that have a time-out each",
    "stages/zones.py look result": "waits for a call, which has the deadline",
    "stopping.py pause sleep": "the one sleep; every caller bounds it by its deadline",
}


def waits(tree: ast.AST, file: str) -> Iterator[str]:
    within = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}

    def place(node: ast.AST) -> str:
        names: list[str] = []
        while node in within:
            node = within[node]
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.insert(0, node.name)
        return f"{file} {'.'.join(names)}"

    for node in ast.walk(tree):
        if isinstance(node, ast.While):
            yield f"{place(node)} while"
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, bounded = node.func.attr, any(keyword.arg == "timeout" for keyword in node.keywords)
        owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
        if name == "sleep" or (name in WAITING and not node.args and not bounded):
            yield f"{place(node)} {name}"
        if owner == "subprocess" and name in STARTING and not bounded:
            yield f"{place(node)} subprocess"


def test_every_loop_and_every_wait_has_an_end_that_is_known_here() -> None:
    found = {
        wait
        for path in ROOT.rglob("*.py")
        if "sandbox" not in path.relative_to(ROOT).parts
        for wait in waits(ast.parse(path.read_text()), str(path.relative_to(ROOT)))
    }
    assert found == set(REASONS)


def test_it_would_find_one() -> None:
    body = "while True:\n        time.sleep(1)\n    thread.join()\n    subprocess.run(command)\n"
    code = f"def f(thread):\n    {body}"
    assert set(waits(ast.parse(code), "x.py")) == {"x.py f while", "x.py f sleep", "x.py f join", "x.py f subprocess"}
