"""Hetzner Cloud for many runs of one command: they share reads, and everything they change stays their own."""

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from clawdet_cli.adapters.answers import understood
from clawdet_cli.adapters.hetzner import ANOTHER_SERVER, Hetzner
from clawdet_cli.adapters.hetzner_refusals import CONSOLE
from clawdet_cli.adapters.retry import Watch
from clawdet_cli.adapters.shared import Flights, Once
from clawdet_cli.errors import CloudError
from clawdet_cli.model import Deadline, Server, ServerOffer
from clawdet_cli.network import DIRECT, Network
from clawdet_cli.secret import Secret

T = TypeVar("T")

FAILURES_SECONDS = 5.0
"""How old what is known of failed actions may be: a server that is waited for comes to nothing, and that can wait."""


class _Project:
    """What all runs know of the project."""

    def __init__(self) -> None:
        self.pages = 1
        """How many the last list of servers had."""
        self.failures: dict[int, list[str]] = {}
        """The failed actions, by server."""
        self._lock = threading.Lock()
        self._due_at = 0.0

    def failures_are_due(self) -> bool:
        """Say whether the caller is to read them now, while the others go on with what there is."""
        with self._lock:
            now = time.monotonic()
            due = now >= self._due_at
            if due:
                self._due_at = now + FAILURES_SECONDS
            return due


@understood("Hetzner Cloud")
class FleetHetzner(Hetzner):
    """A project, of which one list tells all runs how their servers stand.

    Where fewer ask than the list has pages, each server is read by itself.
    """

    def __init__(
        self, url: str, token: Secret, deadline: Deadline, *, watch: Watch | None = None, network: Network = DIRECT
    ) -> None:
        super().__init__(url, token, deadline, watch=watch, network=network)
        self._flights = Flights[int | str | None, tuple[Server, ...]]()
        self._once = Once()
        self._project = _Project()

    def check(self) -> None:
        """Make one harmless call, so that a wrong token or no network is told at once."""
        self._known("check", lambda: super(FleetHetzner, self).check())

    def offers(self, server_types: Sequence[str], locations: Sequence[str]) -> list[ServerOffer]:
        """List what can be ordered; types, locations and prices are read once."""
        find = super().offers
        return self._known(("offers", *server_types, "at", *locations), lambda: find(server_types, locations))

    def image_for(self, name: str, architecture: str) -> str:
        """Give the image's name when it exists for the architecture; images are read once."""
        find = super().image_for
        return self._known(("image", name, architecture), lambda: find(name, architecture))

    def find_server(self, name: str) -> Server | None:
        """Find the server of exactly this name, ours or not."""
        found = self._shared(name)
        return found[0] if found else None

    def server(self, server_id: int) -> Server | None:
        """Read a server; None when there is none of this id."""
        found = self._shared(server_id)
        return found[0] if found else None

    def servers(self, selector: str) -> list[Server]:
        """List the servers that a selector of one label matches."""
        label, _, value = selector.partition("=")
        return [server for server in self._shared(None) if server.labels.get(label) == value]

    def all_servers(self) -> list[Server]:
        """List every server of the project, ours or not."""
        return list(self._shared(None))

    def _known(self, name: Hashable, find: Callable[[], T]) -> T:
        return self._once.get(name, find, deadline=self._deadline)

    def _shared(self, question: int | str | None) -> tuple[Server, ...]:
        return self._flights.ask(question, self._fly, deadline=self._deadline, what="Hetzner Cloud's list of servers")

    def _fly(self, questions: Sequence[int | str | None]) -> tuple[Sequence[tuple[Server, ...]], int]:
        """Answer by id, by name, or (None) with all servers."""
        if len(questions) <= self._project.pages and None not in questions:
            return [self._read(question) for question in questions if question is not None], len(questions)
        servers, calls = self._every_server()
        everything = tuple(servers.values())
        by_name = {server.name: server for server in everything}

        def answer(question: int | str | None) -> tuple[Server, ...]:
            if question is None:
                return everything
            found = servers.get(question) if isinstance(question, int) else by_name.get(question)
            return (found,) if found is not None else ()

        return [answer(question) for question in questions], calls

    def _read(self, question: int | str) -> tuple[Server, ...]:
        found = super().server(question) if isinstance(question, int) else super().find_server(question)
        return (found,) if found is not None else ()

    def _every_server(self) -> tuple[dict[int, Server], int]:
        """List all servers by id, and tell how many calls that took.

        From the last page to the first: a deletion in between moves servers to earlier pages, where they are read a
        second time. Forwards, they would move to where nobody looks any more, and seem to be gone.
        """
        servers: dict[int, Server] = {}
        calls, page = 0, self._project.pages
        while page > 0:
            found, pages = self.servers_page(page)
            calls += 1
            if calls == 1 and pages != page:
                self._project.pages = page = pages
                continue
            servers = {server.id: server for server in found} | servers
            page -= 1
        return servers, calls

    def _await_start(self, server: Server) -> None:
        """Leave it to the list to tell when it runs, and to `_refuse_a_failure` when it never will."""

    def _await_deletion(self, server_id: int, actions: Sequence[int]) -> None:
        """Leave it to the list to tell when it is gone."""

    def _refuse_a_failure(self, server_id: int) -> None:
        if self._project.failures_are_due():
            self._project.failures = self.failed_actions()
        if failed := self._project.failures.get(server_id):
            raise CloudError(
                f"Hetzner could not finish '{failed[0].partition(':')[0]}' for server {server_id}.",
                details=failed,
                next_steps=[f"see the server's activity at {CONSOLE}", ANOTHER_SERVER],
            )
