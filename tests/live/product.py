"""The product itself against the same accounts: one whole provision, a second run, reconcile, destroy."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clawdet_cli.settings import PROVIDERS
from tests.live.api import ApiError
from tests.live.journal import Thing
from tests.live.run import Run

TIMEOUT = 1800.0
"""Seconds for one command; its own time-out is half of that."""
STOP_SECONDS = 90.0
"""How long a command may take to end between two of its effects once it is told to stop."""
SAME = ("server_id", "record_id", "certificate_id", "ipv4", "created_at")


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    document: Mapping[str, Any]
    """What it printed as JSON; empty where that was none."""
    last: str
    """The last lines on stderr."""

    @property
    def evidence(self) -> str:
        """The exit code, and what was wrong."""
        return f"exit code {self.code}" + (f": {self.last}" if self.code else "")


def look(run: Run) -> None:
    """Provision, and once more; compare; destroy."""
    judge = run.verdicts.judge
    types = ",".join(dict.fromkeys(offer.type for offer in run.offers))
    places = ",".join(dict.fromkeys(offer.location for offer in run.offers))
    with run.step("clawdet provision"):
        run.journal.intend("instance", run.user)
        made = clawdet(run, "provision", run.user, "--yes", "--server-type", types, "--location", places)
        run.journal.made("instance", run.user, run.user)
    first = _instance(made)
    judge("product.provision", made.code == 0 and first.get("status") == "complete", made.evidence)
    if made.code:
        raise ApiError("clawdet provision did not complete; what it made is removed")
    with run.step("clawdet provision, a second time"):
        again = clawdet(run, "provision", run.user, "--yes")
    second = _instance(again)
    changed = [name for name in SAME if first.get(name) != second.get(name)]
    evidence = f"{again.evidence}; other {', '.join(changed)}" if changed else again.evidence
    judge("product.again", again.code == 0 and bool(second) and not changed, evidence)
    with run.step("clawdet reconcile"):
        compared = clawdet(run, "reconcile")
    rows = compared.document.get("reconcile", {}).get("rows", [])
    own = [row["category"] for row in rows if row.get("user") == run.user]
    judge("product.reconcile", bool(own) and {*own} == {"right"}, f"{compared.evidence}; {len(own)} rows of its own")
    with run.step("clawdet destroy"):
        gone = clawdet(run, "destroy", run.user, "--yes")
    judge("product.destroy", gone.code == 0, gone.evidence)
    if gone.code == 0:
        run.journal.gone(Thing("instance", run.user))


def clawdet(run: Run, verb: str, *arguments: str) -> Said:
    """Run a command of clawdet's with the same tokens, in a state folder of its own; keep what it says as JSON."""
    sandbox = ("--sandbox",) if run.place.sandbox else ()
    hetzner_token, cloudflare_token = run.place.tokens
    environment = {name: value for name, value in os.environ.items() if name not in PROVIDERS} | {
        "HCLOUD_TOKEN": hetzner_token,
        "CLOUDFLARE_API_TOKEN": cloudflare_token,
        "CLAWDET_ZONE": run.place.zone,
        "CLAWDET_STATE": str(run.place.sandbox or (run.folder / "private" / "state").absolute()),
        "CLAWDET_CONFIG": str((run.folder / "private" / "none.toml").absolute()),
        # Where this program was killed, the command that it had started may still be at work.
        "CLAWDET_LOCK_WAIT": str(TIMEOUT / 2),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "clawdet_cli", verb, *arguments, "--json", *sandbox],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for this program, which then stops that one in good order
    )
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    finally:
        if process.poll() is None:
            _stop(process)
    try:
        document = json.loads(out)
    except ValueError:
        document = {}
    run.recorder.document(f"{verb}.{process.returncode}", document)
    return Said(process.returncode, document, " / ".join(err.split("\n")[-4:])[-400:])


def _stop(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _instance(said: Said) -> Mapping[str, Any]:
    instances = said.document.get("instances") or [said.document.get("instance") or {}]
    found: Mapping[str, Any] = instances[0]
    return found
