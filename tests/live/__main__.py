"""Try, with real accounts, what clawdet and its sandbox assume of Hetzner, Cloudflare and Ubuntu.

It needs HCLOUD_TOKEN, CLOUDFLARE_API_TOKEN and a zone, says what it will make and what that costs, and asks. Whatever
happens, it removes what it made, and proves it; `--clean FOLDER` does so after a run that was killed. With
`--sandbox STATE_DIR` the emulated clouds of a running sandbox stand for the real ones.
"""

import argparse
import os
import re
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from clawdet_cli.errors import ClawdetError
from tests.live import accounts, certificates, cleanup, edge, product, rights, server, zone
from tests.live.api import ApiError
from tests.live.assumptions import ASSUMPTIONS, sentence
from tests.live.place import Place, find
from tests.live.run import Run, open_run

SUBJECTS: dict[str, Callable[[Run], None]] = {
    "accounts": accounts.look,
    "zone": zone.look,
    "certificates": certificates.look,
    "rights": rights.look,
    "edge": edge.look,
    "server": server.look,
    "product": product.look,
}
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SERVERS = ("server", "product")
"""The subjects that order a server."""

CONTRADICTED, USAGE, TAKEN, LEFT = 1, 2, 4, 5
"""Exit codes: something did not hold or broke off; a wrong command line; a name is taken; something is left."""


class StoppedError(BaseException):
    """Ctrl-C or SIGTERM: not an Exception, so that no subject takes it for its own."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the whole, or clean up."""
    options = _parser().parse_args(arguments)
    before = [signal.signal(number, _stop) for number in SIGNALS]
    try:
        return _clean(options.clean) if options.clean else _whole(options)
    except ClawdetError as error:
        _complain(error.what, *error.details, *error.next_steps)
        return error.exit_code
    except ApiError as error:
        _complain(str(error))
        return CONTRADICTED
    except StoppedError as stopped:  # before anything was made: later ones are seen to where things are
        _complain(f"Stopped by {stopped}; nothing was made.")
        return stopped.code
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


def _whole(options: argparse.Namespace) -> int:
    if not options.yes and not sys.stdin.isatty():
        _complain("This makes things that cost money: without a terminal to ask at, say --yes.")
        return USAGE
    subjects = [name for name in SUBJECTS if not options.only or name in options.only]
    place = find(os.environ, zone=options.zone, sandbox=options.sandbox)
    folder = options.into or Path(time.strftime("clawdet-live-%Y%m%d-%H%M%S"))
    run = open_run(place, folder, options.word or secrets.token_hex(3))
    if (folder / "private").exists():
        _complain(
            f"{folder} holds the journal of another run.", f"python -m tests.live --clean {folder}", "or --into another"
        )
        return TAKEN
    run.recorder.subject = "zone"
    zone.find(run)
    run.recorder.subject = "accounts"
    accounts.read_offers(run)
    if found := cleanup.taken(run):
        _complain(f"Something has a name of this run's already ({', '.join(found)}): choose another --word.")
        return TAKEN
    if not run.offers:
        subjects = [name for name in subjects if name not in SERVERS]
        run.say("No server type can be had: the subjects that need a server are left out.")
    _announce(run, subjects)
    if not options.yes and not _agreed():
        _complain("Not confirmed: nothing was made.")
        return 128 + signal.SIGINT
    sandbox = str(options.sandbox.absolute()) if options.sandbox else ""
    shared = " ".join(sorted(cleanup.shared_things(run)))
    run.journal.begin(word=run.word, zone=place.zone, sandbox=sandbox, shared=shared)
    return _try_all(run, subjects)


def _try_all(run: Run, subjects: Sequence[str]) -> int:
    broken: list[str] = []
    code = 0
    try:
        for name in subjects:
            run.recorder.subject = name
            run.say(name)
            try:
                with run.verdicts.of(name):
                    SUBJECTS[name](run)
            except Exception as error:  # noqa: BLE001  # a subject that breaks off is a finding, and not the run's end
                broken.append(f"{name}: {error}")
                run.say(f"  broke off: {error}")
    except StoppedError as stopped:
        code = stopped.code
        run.say(f"Stopped by {stopped}: cleaning up.")
    left = _clean_up(run)
    _report(run, broken, left)
    if left:
        return LEFT
    failed = bool(broken) or any(one.outcome == "did not hold" for one in run.verdicts.all())
    return code or (CONTRADICTED if failed else 0)


def _clean(folder: Path) -> int:
    """Remove what a run that was killed has left."""
    from tests.live.journal import Journal  # noqa: PLC0415  # the run's own comes with it

    try:
        about = Journal(folder / "private" / "journal").about
    except FileNotFoundError:
        run_is_over = not (folder / "private").exists()
        _complain(f"{folder} holds no journal: {'nothing is left to remove' if run_is_over else 'no such run'}.")
        return 0 if run_is_over else USAGE
    except IndexError:
        about = {}
    if not about:
        shutil.rmtree(folder / "private")
        return 0
    place: Place = find(os.environ, zone=about["zone"], sandbox=Path(about["sandbox"]) if about["sandbox"] else None)
    run = open_run(place, folder, about["word"])
    left = _clean_up(run)
    for one in left:
        run.say(f"LEFT: {one}")
    return LEFT if left else 0


def _clean_up(run: Run) -> list[str]:
    """Remove and prove, whatever signals come; return what is left."""
    _stop_no_more()
    run.recorder.subject = "cleanup"
    run.say("cleanup")
    if not run.zone_id:
        try:
            zone.find(run)
        except ApiError as error:
            run.say(f"  {error}")
    left = cleanup.everything(run)
    with run.step("look once more for all that was made"):
        left += [what for what in cleanup.prove(run) if what not in left]
    if not left:
        shutil.rmtree(run.folder / "private")
        run.say("  Nothing is left in either cloud.")
    run.hetzner.close()
    run.cloudflare.close()
    return left


def _announce(run: Run, subjects: Sequence[str]) -> None:
    place = run.place
    where = f"a SANDBOX in {place.sandbox}" if place.sandbox else "REAL accounts"
    run.say(f"The live check, against {where}: the zone {place.zone} and the Hetzner project of the token.")
    run.say(f"It makes these, names them {run.name}, and removes them again:")
    if "certificates" in subjects:
        _item("an Origin CA certificate of 7 days", "free")
    if "edge" in subjects:
        _item(f"a proxied DNS record to {edge.ORIGIN}", "free")
    if "server" in subjects:
        _item("an SSH key and a firewall", "free")
    servers = [name for name in subjects if name in SERVERS]
    if servers:
        first, dearest = run.offers[0], max(run.offers, key=lambda offer: offer.hourly)
        what = {"server": "a server", "product": "one whole clawdet provision: a second server"}
        for name in servers:
            _item(f"{what[name]}, {first.type} in {first.location}", f"{_cents(first.hourly)} for an hour")
        run.say(
            f"Price: {_cents(len(servers) * first.hourly)} ({run.currency}, VAT included; each hour begun is billed;"
            f" {_cents(len(servers) * dearest.hourly)} if only {dearest.type} is left)."
        )
    else:
        run.say("Price: 0 cents.")
    run.say(f"Scrubbed answers go to {run.folder / 'answers'}.")


def _agreed() -> bool:
    try:
        return input("Go on? [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        return False


def _item(what: str, price: str) -> None:
    print(f"  {what:<64} {price}", flush=True)


def _cents(amount: float) -> str:
    return f"{amount * 100:.2f} cents"


def _report(run: Run, broken: Sequence[str], left: Sequence[str]) -> None:
    verdicts = run.verdicts.all()
    run.say("")
    for one in verdicts:
        run.say(f"{one.outcome:<13} {one.id:<42} {sentence(one.id)}")
        run.say(f"{'':<13} {'':<42} {one.evidence}")
    counts = {kind: sum(one.outcome == kind for one in verdicts) for kind in ("held", "did not hold", "not tried")}
    run.say(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    for text in broken:
        run.say(f"BROKE OFF: {text}")
    for text in left:
        run.say(f"LEFT: {text}")
    if left:
        run.say(f"Remove it with: python -m tests.live --clean {run.folder}")
    content = {
        "verdicts": [{"assumption": one.id, "outcome": one.outcome, "evidence": one.evidence} for one in verdicts],
        "steps": run.steps,
        "broken": list(broken),
        "left": list(left),
    }
    (run.folder / "table.json").write_text(run.recorder.scrubber.document(content))


def _stop(number: int, _frame: FrameType | None) -> None:
    _stop_no_more()
    raise StoppedError(number)


def _stop_no_more() -> None:
    """Let nothing but SIGKILL end what now follows: the removal of what was made."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: print("Still cleaning up.", flush=True))


def _complain(*lines: str) -> None:
    print(*lines, sep="\n  ", file=sys.stderr)


def _word(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]{1,12}", text, re.ASCII):
        raise argparse.ArgumentTypeError("a word of a-z and 0-9, 12 at most, is expected")
    return text


def _parser() -> argparse.ArgumentParser:
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m tests.live", description=about, epilog=more)
    parser.add_argument("--zone", help="the zone at Cloudflare (default: CLAWDET_ZONE)")
    parser.add_argument(
        "--into", type=Path, metavar="FOLDER", help="where answers and table go (default: a new one here)"
    )
    parser.add_argument("--only", action="append", choices=ASSUMPTIONS, help="try this subject alone; may be repeated")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--word", type=_word, help="what names end in: a-z, 0-9, 12 at most (default: a random one)")
    parser.add_argument("--sandbox", type=Path, metavar="STATE_DIR", help="a state folder whose sandbox runs")
    parser.add_argument("--clean", type=Path, metavar="FOLDER", help="remove what the run into this folder left")
    return parser


if __name__ == "__main__":
    sys.exit(main())
