"""The VPS's own answers, read past DNS and edge through the SSH connection."""

from collections.abc import Mapping

from clawdet_cli.adapters.edge import Visitor
from clawdet_cli.adapters.ssh import Ssh
from clawdet_cli.errors import GuestError
from clawdet_cli.stages.runner import CONNECTIONS, Run

NONCE_PATH = "/.well-known/clawdet-nonce"


def look(run: Run, nonce: str, said: Mapping[str, str]) -> None:
    """Read the landing page from the VPS's own address. Raises GuestError.

    `said` is what the VPS says of itself: its address, its certificate, and whether it wants Cloudflare's.
    """
    for _ in range(CONNECTIONS - 1):
        ssh = run.ssh()
        try:
            _look_through(run, ssh, nonce, said)
        except GuestError:
            # What is read through a connection breaks with it, and says so in many ways.
            if ssh.alive:
                raise
            run.note("the connection to the VPS broke: connecting anew")
        else:
            return
    _look_through(run, run.ssh(), nonce, said)


def _look_through(run: Run, ssh: Ssh, nonce: str, said: Mapping[str, str]) -> None:
    # Not over loopback: OpenClaw answers 403 to a client that it can attribute to nobody but the machine itself.
    address = said.get("address", "")
    visitor = Visitor(
        run.instance.host,
        lambda: ssh.tunnel(address, 443),
        None,
        pinned_sha256=said.get("certificate_sha256"),
        hop="the VPS itself",
        deadline=run.deadline,
    )
    if said.get("origin_pulls") == "on":
        _refuses_the_unknown(visitor, address)
        return
    with visitor.visit() as visit:
        page, proof, gateway = visit.get("/"), visit.get(NONCE_PATH), visit.get("/app/")
    proved = nonce in proof.body.decode(errors="replace").split()
    if (page.status, gateway.status, proved) != (200, 200, True):
        raise GuestError(
            f"Caddy on the VPS answers {page.status} for the landing page and {gateway.status} for the gateway,"
            f" and {'the' if proved else 'not the'} nonce of this run.",
            details=[f"asked: {address}:443 through SSH, with the name {run.instance.host}"],
        )


def _refuses_the_unknown(visitor: Visitor, address: str) -> None:
    """See that whoever shows no certificate is let in to nothing. Raises GuestError."""
    try:
        page = visitor.get("/")
    except GuestError:
        return
    raise GuestError(
        f"Caddy on the VPS is to let in Cloudflare's certificate alone, and answers {page.status} without one.",
        details=[f"asked: {address}:443 through SSH"],
    )
