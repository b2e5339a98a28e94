"""What all subjects of a run share: the clouds, the journal, the verdicts, and the clock."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.live.api import Api, ApiError
from tests.live.assumptions import Verdicts
from tests.live.journal import Journal
from tests.live.place import Place
from tests.live.recorder import Recorder
from tests.live.scrub import Scrubber

T = TypeVar("T")

PREFIX = "clawdet-live"
MARK = PREFIX
"""The label of what is made at Hetzner; its value is the run's word."""


@dataclass(frozen=True)
class Offer:
    """A server type in a location, with what an hour of it costs, its IPv4 address included."""

    type: str
    location: str
    hourly: float
    """Gross, in the account's currency."""


@dataclass
class Run:
    """One run, or the cleaning up after one."""

    place: Place
    folder: Path
    word: str
    journal: Journal
    recorder: Recorder
    hetzner: Api
    cloudflare: Api
    verdicts: Verdicts = field(default_factory=Verdicts)
    steps: list[dict[str, Any]] = field(default_factory=list)
    """What was done, and how many seconds it took."""
    zone_id: str = ""
    name_servers: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    """The zone's, as far as the token may read them."""
    offers: list[Offer] = field(default_factory=list)
    currency: str = ""

    @property
    def name(self) -> str:
        """The name of everything that is made, or its beginning."""
        return f"{PREFIX}-{self.word}"

    @property
    def host(self) -> str:
        """The host name of the record and the certificate."""
        return f"{self.name}.{self.place.zone}"

    @property
    def user(self) -> str:
        """The user whom the product provisions; its server's name begins as all others."""
        return f"live-{self.word}-whole"

    @property
    def labels(self) -> dict[str, str]:
        """What marks a thing at Hetzner as this run's."""
        return {MARK: self.word}

    @property
    def pause(self) -> float:
        """Seconds between two looks at something that takes time."""
        return 0.1 if self.place.sandbox else 1.0

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Say what is done, and how long it took."""
        began = time.monotonic()
        ending = "failed"
        try:
            yield
            ending = "done"
        finally:
            seconds = time.monotonic() - began
            self.steps.append({"subject": self.recorder.subject, "step": text, "seconds": round(seconds, 2)})
            self.say(f"  {seconds:7.2f} s  {text}{'' if ending == 'done' else ' (broke off)'}")

    def until(self, look: Callable[[], T | None], what: str, seconds: float) -> T:
        """Look again and again until something is found; raise ApiError when it takes too long."""
        end = time.monotonic() + seconds
        while (found := look()) is None:
            if time.monotonic() > end:
                raise ApiError(f"{what} took more than {seconds:g} s")
            time.sleep(self.pause)
        return found


def open_run(place: Place, folder: Path, word: str) -> Run:
    """Return a run whose answers go below the folder."""
    folders = (place.settings.state_dir, folder.absolute(), Path.home())
    scrubber = Scrubber(zone=place.zone, word=word, secrets=place.secrets, folders=map(str, folders))
    recorder = Recorder(folder / "answers", scrubber)
    hetzner_token, cloudflare_token = place.tokens
    endpoints, proxied = place.settings.endpoints, place.sandbox is None
    return Run(
        place=place,
        folder=folder,
        word=word,
        journal=Journal(folder / "private" / "journal"),
        recorder=recorder,
        hetzner=Api(endpoints.hetzner_url, hetzner_token, recorder, proxied=proxied),
        cloudflare=Api(endpoints.cloudflare_url, cloudflare_token, recorder, proxied=proxied),
    )
