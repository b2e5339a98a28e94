"""How this machine's clock stands to that of a cloud, by answers that were received anyway."""

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime

from clawdet_cli import USER_AGENT
from clawdet_cli.adapters.threads import begin

MAX_SECONDS = 120.0
"""Clocks that differ by less are as right as certificates need them."""
SET_IT = "set this machine's clock, as with: timedatectl set-ntp true"


class CloudClock:
    """Learns from the first answer that says what time it is there."""

    def __init__(self) -> None:
        self.ahead: float | None = None
        """How many seconds ours is ahead; negative where it is behind, None where no answer said the time."""

    def learn(self, date: str | None) -> None:
        """Take note of an answer's `Date`, which is cut to whole seconds."""
        if self.ahead is None and date is not None:
            try:
                self.ahead = time.time() - parsedate_to_datetime(date).timestamp()
            except (ValueError, TypeError, OverflowError):
                return

    def ask(self, connect: Callable[[], socket.socket], host: str, seconds: float) -> None:
        """Ask whoever answers for a host what time it is, where its certificate does not count as valid now.

        Nothing is sent but the question, and nothing is believed but what is then said of the clock.
        """
        if self.ahead is None:
            with suppress(OSError, http.client.HTTPException):
                self.learn(begin(lambda: _date(connect, host, seconds)).result(timeout=seconds))

    @property
    def is_wrong(self) -> bool:
        """Return whether it is so far off that certificates are misjudged."""
        return self.ahead is not None and abs(self.ahead) > MAX_SECONDS

    def described(self, whose: str) -> str:
        """Return how this machine's clock stands to `whose` it is."""
        ahead = self.ahead or 0.0
        return f"{abs(ahead) / 60:.0f} minutes {'ahead of' if ahead > 0 else 'behind'} that of {whose}"


def _date(connect: Callable[[], socket.socket], host: str, seconds: float) -> str | None:
    unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE
    with connect() as plain:
        plain.settimeout(seconds)
        with unchecked.wrap_socket(plain, server_hostname=host) as stream:
            connection = http.client.HTTPConnection(host)
            connection.sock = stream
            connection.request("HEAD", "/", headers={"User-Agent": USER_AGENT})
            return connection.getresponse().getheader("Date")
