"""`clawdet doctor`."""

import typer

from clawdet_cli.cli import documents, output, screens
from clawdet_cli.cli.configure import configure
from clawdet_cli.cli.options import Call, with_call
from clawdet_cli.model import Verdict

HELP = """\
Each right is tried with a request that changes nothing, whatever the answer: deleting what cannot exist, signing what
cannot be signed. What a token has too much of works, and is what a thief would get: make a narrower one. The zone's
settings and its certificate at Cloudflare are looked at too, and the network: the way out over IPv4, SSH to your
servers, proxies, and this machine's clock.

The exit code is 0 unless something is lacking that clawdet cannot do without (3), or no answer told of a right (7)."""

EPILOG = "In CI, before anything is made: clawdet doctor --json"


@with_call
def doctor(call: Call) -> None:
    """Judge both tokens, the zone and this machine's network."""
    from clawdet_cli import operations  # not above: --help must stay fast

    with output.progress(call) as view:
        configured = configure(call, view)
        with view.working("Trying what the tokens may do"):
            found = operations.rights(configured.settings, view.watch)
    lacking = any(right.verdict is Verdict.LACKS for right in found)
    unknown = any(right.verdict is Verdict.UNKNOWN for right in found)
    content = {"doctor": {"ok": not lacking and not unknown, "rights": documents.rights(found)}}
    output.result(call, content, screens.rights(found), label=configured.label)
    if lacking or unknown:
        raise typer.Exit(3 if lacking else 7)
