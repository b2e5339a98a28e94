"""What clawdet asks of Hetzner Cloud: the only importer of hcloud.

The SDK's own retries are off: they repeat a POST whose answer was lost without looking first, and sleep past deadlines.
"""

import base64
import copy
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from ipaddress import IPv4Address
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import requests
from hcloud import APIException, Client
from hcloud.firewalls.client import BoundFirewall
from hcloud.firewalls.domain import Firewall as ApiFirewall
from hcloud.firewalls.domain import FirewallResource
from hcloud.firewalls.domain import FirewallRule as ApiRule
from hcloud.images.domain import Image
from hcloud.locations.domain import Location
from hcloud.server_types.client import BoundServerType
from hcloud.server_types.domain import ServerType, ServerTypeLocation
from hcloud.servers.client import BoundServer
from hcloud.servers.domain import Server as ApiServer
from hcloud.ssh_keys.client import BoundSSHKey
from hcloud.ssh_keys.domain import SSHKey
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from clawdet_cli import __version__
from clawdet_cli.adapters import values
from clawdet_cli.adapters.answers import MOST_WORDS, TooMuchError, bounded, understood, unknown_shape
from clawdet_cli.adapters.budget import Budget
from clawdet_cli.adapters.calling import Calling
from clawdet_cli.adapters.clock import CloudClock
from clawdet_cli.adapters.hetzner_refusals import CONSOLE, refusal
from clawdet_cli.adapters.proxy import Peer, unreached
from clawdet_cli.adapters.retry import FIRST_PATIENCE, Fence, NotYet, Watch, ask, change, until
from clawdet_cli.errors import CloudError, ConfigError, StateError
from clawdet_cli.model import Deadline, Firewall, FirewallRule, Server, ServerOffer, ServerOrder, SshKey
from clawdet_cli.money import Price
from clawdet_cli.network import DIRECT, Network
from clawdet_cli.secret import Secret, excerpt

T = TypeVar("T")

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
CHUNK = 65536
CONNECTIONS = 16
"""More calls than these at a time wait for each other: a hundred runs need no hundred connections."""
TOLD = {"id", "name", "status", "public_net", "location", "labels", "created"}
"""What of a server in a list is of interest, besides its type's name."""
PER_PAGE = 50
"""The most that a page of a list holds."""
MAX_PAGES = 1000
MAX_CORES, MAX_GB = 4096, 1_000_000
"""More than any server has: of processors, and of memory or disk."""
CENT = Decimal("0.01")

NOBODYS_ID = 2**53 - 1
"""Ids are counted upwards from 1; this is the greatest that every reader of JSON keeps as it is."""

LONGEST_PAUSE = 300.0
"""Seconds; what is told to come back later than that asks on by itself."""

OFF_SECONDS = 15.0
"""A new server is off for a moment before it starts; one that stays off waits for somebody."""

POLL_SECONDS = 0.25
"""Short at first, since some actions end at once; a wait of half a minute takes 18 of the 3600 calls of an hour."""
MOST_POLL_SECONDS = 3.0
"""What lasts longer is looked at less often."""

STUCK_SECONDS = 300.0
"""A server starts within a minute; one that has not for so long never will, and to wait again is in vain."""

ANOTHER_SERVER = "clawdet destroy USER    (then provision again: this one will not start)"


@understood("Hetzner Cloud")
class Hetzner:
    """A project at Hetzner Cloud, within one command's deadline.

    Every method raises ConfigError when the token is refused, CloudError when Hetzner says no, and WaitError at the
    deadline.
    """

    def __init__(
        self, url: str, token: Secret, deadline: Deadline, *, watch: Watch | None = None, network: Network = DIRECT
    ) -> None:
        self._deadline = deadline
        self._watch = watch
        self._fence: Fence | None = None
        self._calling = Calling()
        self._described: dict[int, tuple[dict[str, Any], Server]] = {}
        """The servers of lists, and what they were described by."""
        self.budget = Budget("Hetzner")
        self.clock = CloudClock()
        address = urlsplit(url)
        self._peer = Peer("Hetzner Cloud", address.hostname or "", address.port or 443, network, self.clock)
        proxy = network.proxy_for(self._peer.host)
        self._client = Client(
            token.reveal(), api_endpoint=url.rstrip("/"), application_name="clawdet", application_version=__version__
        )
        inner = self._client._client  # noqa: SLF001  # the SDK has no public way to its session and its retries
        inner._retry_max_retries = 0  # noqa: SLF001  # see the module's docstring; a contract test counts the calls
        self._session = inner._session  # noqa: SLF001  # as above
        # Otherwise a ~/.netrc line for the host replaces the token, and proxy variables catch loopback.
        self._session.trust_env = False
        self._session.headers["Accept-Encoding"] = "gzip"
        if proxy is not None:
            self._session.proxies["https"] = proxy.url
        if network.ca is not None:
            self._session.verify = str(network.ca)
        self._session.max_redirects = 0  # the API sends nobody elsewhere; whoever does is not it
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, _Bounded(self._calling, self.budget, self.clock))

    @property
    def deadline(self) -> Deadline:
        """Give the deadline of the run that this is for."""
        return self._deadline

    def within(self, deadline: Deadline, watch: Watch, fence: Fence) -> Self:
        """Return the same client, with its connections and its budget, for a run with a deadline and leases."""
        own = copy.copy(self)
        vars(own).update(_deadline=deadline, _watch=watch, _fence=fence)
        return own

    def close(self) -> None:
        """Close the connections that are kept for further calls."""
        self._session.close()

    def check(self) -> None:
        """Make one harmless call, so that a wrong token or no network is told at once."""
        ask(
            lambda: self._call("check the token", lambda: self._client.locations.get_list(per_page=1), changing=False),
            deadline=self._deadline,
            what="Hetzner Cloud to answer",
            patience=FIRST_PATIENCE,
            watch=self._watch,
        )

    def may_write(self) -> bool:
        """Find out whether the token may change anything, by deleting something that cannot exist."""

        def delete() -> None:
            _or_none(lambda: self._client.ssh_keys.delete(BoundSSHKey(self._client.ssh_keys, {"id": NOBODYS_ID})))

        try:
            self._ask("let the token write", delete)
        except ConfigError:
            return False
        return True

    def offers(self, server_types: Sequence[str], locations: Sequence[str]) -> list[ServerOffer]:
        """List what can be ordered, in the order of the names given, types before locations.

        Raises ConfigError with what exists when a name is unknown.
        """
        known = {str(item.name): item for item in self._ask("list server types", self._client.server_types.get_all)}
        pricing = self._ask("list prices", lambda: self._client.request("GET", "/pricing"))["pricing"]
        places = sorted({str(place.location.name) for item in known.values() for place in item.locations or []})
        _known_names("server type", server_types, sorted(known), "--server-type")
        _known_names("location", locations, places, "--location")
        found = []
        for name in server_types:
            for location in locations:
                offer = _offer(known[name], location, pricing)
                if offer is not None:
                    found.append(offer)
        return found

    def image_for(self, name: str, architecture: str) -> str:
        """Give the image's name when it exists for the architecture. Raises ConfigError with those that do."""
        images = self._ask("list images", lambda: self._client.images.get_all(type=["system"]))
        names = sorted({str(image.name) for image in images if image.architecture == architecture})
        _known_names(f"image for {architecture}", [name], names, "--image")
        return name

    def find_server(self, name: str) -> Server | None:
        """Find the server of exactly this name, ours or not."""
        server = self._ask(f"look for a server named {name}", lambda: self._client.servers.get_by_name(name))
        return None if server is None else _server(server)

    def server(self, server_id: int) -> Server | None:
        """Read a server; None when there is none of this id."""
        server = self._ask(
            f"read server {server_id}", lambda: _or_none(lambda: self._client.servers.get_by_id(server_id))
        )
        return None if server is None else _server(server)

    def servers(self, selector: str) -> list[Server]:
        """List the servers that a label selector matches, such as `managed-by=clawdet`."""
        found = self._ask("list servers", lambda: self._client.servers.get_all(label_selector=selector))
        return [_server(server) for server in found]

    def servers_page(self, page: int) -> tuple[list[Server], int]:
        """List a page of all servers, ours or not, the oldest on the first, and tell how many pages there are."""
        parameters = {"sort": "id:asc", "per_page": PER_PAGE, "page": page}
        answer = self._ask("list servers", lambda: self._client.request("GET", "/servers", params=parameters))
        servers = [self._seen(one) for one in answer["servers"]]
        # None is what Hetzner says of an empty list.
        return servers, values.whole(answer["meta"]["pagination"]["last_page"] or 1, 1, MAX_PAGES)

    def _seen(self, described: dict[str, Any]) -> Server:
        """Give a server of a list; of a hundred that are polled nearly all are described as the last time."""
        before = self._described.get(described["id"])
        if before is None or before[0] != described:
            # A dictionary of its own: the SDK's model changes the one that it is made of.
            own = {name: value for name, value in described.items() if name in TOLD}
            own["server_type"] = {name: described["server_type"][name] for name in ("id", "name")}
            before = (described, _server(BoundServer(self._client.servers, own)))
            self._described[described["id"]] = before
        return before[1]

    def failed_actions(self) -> dict[int, list[str]]:
        """Tell by server what Hetzner could not finish, in its own words."""
        actions = self._client.servers.actions
        found: dict[int, list[str]] = {}
        for action in self._ask("list failed actions", lambda: actions.get_all(status=["error"])):
            error: Mapping[str, Any] = action.error or {}
            words = excerpt(f"{action.command}: {error.get('code')}: {error.get('message')}", MOST_WORDS)
            said = f"{words} (action {values.number_id(action.id)})"
            for resource in action.resources or []:
                if resource["type"] == "server":
                    found.setdefault(values.number_id(resource["id"]), []).append(said)
        return found

    def all_servers(self) -> list[Server]:
        """List every server of the project, ours or not."""
        return [_server(server) for server in self._ask("list all servers", self._client.servers.get_all)]

    def all_ssh_keys(self) -> list[SshKey]:
        """List every SSH key of the project, ours or not."""
        return [_ssh_key(key) for key in self._ask("list all SSH keys", self._client.ssh_keys.get_all)]

    def all_firewalls(self) -> list[Firewall]:
        """List every firewall of the project, ours or not."""
        return [_firewall(one) for one in self._ask("list all firewalls", self._client.firewalls.get_all)]

    def firewall(self, name: str) -> Firewall | None:
        """Find the firewall of exactly this name, ours or not."""
        found = self._ask(f"look for a firewall named {name}", lambda: self._client.firewalls.get_by_name(name))
        return None if found is None else _firewall(found)

    def create_firewall(self, name: str, rules: Sequence[FirewallRule], labels: Mapping[str, str]) -> Firewall:
        """Make a firewall, once. Raises StateError when one without these labels has the name."""

        def create() -> Firewall:
            try:
                answer = self._client.firewalls.create(
                    name,
                    rules=[_api_rule(rule) for rule in rules],
                    labels=dict(labels),  # type: ignore[arg-type]  # the SDK says str, and sends what it is given
                )
            except APIException as error:
                if error.code == "uniqueness_error":
                    raise NotYet(str(error), pause=0, maybe_done=True) from None
                raise
            return _firewall(answer.firewall)

        def look() -> Firewall | None:
            found = self.firewall(name)
            if found is not None and not labels.items() <= dict(found.labels).items():
                raise StateError(
                    f"A firewall named {name} exists in the Hetzner project that is not ours: nothing was touched.",
                    next_steps=[f"rename it at {CONSOLE} (Firewalls), then run the command again"],
                )
            return found

        return self._change(f"create the firewall {name}", create, look)

    def set_firewall_rules(self, firewall: Firewall, rules: Sequence[FirewallRule]) -> None:
        """Replace all rules, and wait until they hold."""

        def replace_them() -> list[int]:
            wanted = [_api_rule(rule) for rule in rules]
            actions = self._client.firewalls.set_rules(ApiFirewall(id=firewall.id), wanted)
            return [values.number_id(action.id) for action in actions]

        def look() -> list[int] | None:
            found = self.firewall(firewall.name)
            return [] if found is not None and set(found.rules) == set(rules) else None

        what = f"set the rules of the firewall {firewall.name}"
        self._await_actions(self._change(what, replace_them, look), f"the firewall {firewall.name}")

    def attach_firewall(self, firewall_id: int, server_id: int) -> None:
        """Put a server behind a firewall, and wait until it holds."""

        def attach() -> list[int]:
            resource = FirewallResource(type=FirewallResource.TYPE_SERVER, server=ApiServer(id=server_id))
            try:
                actions = self._client.firewalls.apply_to_resources(ApiFirewall(id=firewall_id), [resource])
            except APIException as error:
                if error.code == "firewall_already_applied":
                    return []
                raise
            return [values.number_id(action.id) for action in actions]

        def look() -> list[int] | None:
            what = f"read server {server_id}"
            found = self._ask(what, lambda: _or_none(lambda: self._client.servers.get_by_id(server_id)))
            statuses = _firewall_statuses(found) if found is not None else {}
            if statuses.get(firewall_id, "applied") != "applied":
                raise NotYet(f"the firewall is {statuses[firewall_id]}", maybe_done=True)
            return [] if firewall_id in statuses else None

        self._await_actions(self._change(f"attach a firewall to server {server_id}", attach, look), "the firewall")

    def delete_firewall(self, firewall_id: int) -> None:
        """Delete a firewall; one that is gone already is no failure. Raises InUseError while it is in use."""

        def look() -> bool | None:
            found = self._ask(
                "read the firewall", lambda: _or_none(lambda: self._client.firewalls.get_by_id(firewall_id))
            )
            return True if found is None else None

        self._change(
            f"delete the firewall {firewall_id}",
            lambda: _or_none(lambda: self._client.firewalls.delete(ApiFirewall(id=firewall_id))) or True,
            look,
        )

    def prices(self) -> dict[tuple[str, str], Price]:
        """List what a server costs by type and location, per month without VAT, its IPv4 included."""
        known = self._ask("list server types", self._client.server_types.get_all)
        pricing = self._ask("list prices", lambda: self._client.request("GET", "/pricing"))["pricing"]
        found = {}
        for kind in known:
            for price in kind.prices or []:
                found[values.text(kind.name), values.text(price["location"])] = _monthly(price, pricing)
        return found

    def actions_of(self, server_id: int) -> list[int]:
        """List the ids of a server's actions, finished ones included."""
        what = f"list the actions of server {server_id}"
        found = self._ask(what, lambda: self._client.servers.get_actions(ApiServer(id=server_id)))
        return [values.number_id(action.id) for action in found]

    def ssh_key(self, public_key: str) -> SshKey | None:
        """Find a key by its fingerprint, which is unique in the project; its name may be any."""
        blob = base64.b64decode(public_key.split()[1])
        digest = hashlib.md5(blob, usedforsecurity=False).hexdigest()  # Hetzner's key of look-up, not a protection
        fingerprint = ":".join(digest[i : i + 2] for i in range(0, 32, 2))
        found = self._ask("look for the SSH key", lambda: self._client.ssh_keys.get_by_fingerprint(fingerprint))
        return None if found is None else _ssh_key(found)

    def add_ssh_key(self, public_key: str, name: str, labels: Mapping[str, str]) -> SshKey:
        """Add a key, once. Raises StateError when another key has the name."""

        def add() -> SshKey:
            try:
                return _ssh_key(self._client.ssh_keys.create(name, public_key, dict(labels)))
            except APIException as error:
                if error.code == "uniqueness_error":
                    raise NotYet(str(error), pause=0, maybe_done=True) from None
                raise

        def look() -> SshKey | None:
            key = self.ssh_key(public_key)
            if key is None and self._ssh_key_named(name) is not None:
                raise StateError(
                    f"Another SSH key named {name} exists in the Hetzner project: nothing was touched.",
                    next_steps=[f"rename or remove it at {CONSOLE} (Security, SSH keys), then run the command again"],
                )
            return key

        return self._change(f"add the SSH key {name}", add, look)

    def delete_ssh_key(self, key_id: int) -> None:
        """Delete a key; one that is gone already is no failure."""

        def look() -> bool | None:
            found = self._ask("read the SSH key", lambda: _or_none(lambda: self._client.ssh_keys.get_by_id(key_id)))
            return True if found is None else None

        self._change(
            f"delete the SSH key {key_id}",
            lambda: _or_none(lambda: self._client.ssh_keys.delete(SSHKey(id=key_id))) or True,
            look,
        )

    def create_server(self, order: ServerOrder) -> Server:
        """Order a server; its name, unique in the project, keeps a repeated order from making two.

        Raises SoldOutError when type and location cannot be had now, StateError when a foreign server has the name.
        """

        def create() -> Server:
            try:
                answer = self._client.servers.create(
                    name=order.name,
                    server_type=ServerType(name=order.server_type),
                    image=Image(name=order.image),
                    location=Location(name=order.location),
                    ssh_keys=[SSHKey(id=order.ssh_key_id)],
                    firewalls=[ApiFirewall(id=number) for number in order.firewall_ids],
                    user_data=order.user_data.reveal(),
                    labels=dict(order.labels),
                )
            except APIException as error:
                # An earlier order of ours may have been carried out after all: the look decides whose server it is.
                if error.code == "uniqueness_error":
                    raise NotYet(str(error), pause=0, maybe_done=True) from None
                raise
            begun = [answer.action, *answer.next_actions]
            return _server(answer.server, [values.number_id(action.id) for action in begun])

        def look() -> Server | None:
            found = self.find_server(order.name)
            if found is None:
                return None
            if any(found.labels.get(key) != order.labels.get(key) for key in ("managed-by", "user", "run")):
                raise StateError(
                    f"A server named {order.name} exists that is not ours: nothing was touched.",
                    details=[f"server {found.id}, {found.status}, labels {dict(found.labels)}"],
                    next_steps=[f"rename or remove it at {CONSOLE}, or choose another user name"],
                )
            if found.status == "deleting":
                raise NotYet(f"the earlier server {found.id} is still being deleted", maybe_done=True)
            return replace(found, actions=tuple(self.actions_of(found.id)))

        what = f"create server {order.name} ({order.server_type} in {order.location})"
        return self._change(what, create, look)

    def await_running(self, server: Server) -> Server:
        """Wait until the server's actions are done and it runs with a public IPv4 address.

        Raises CloudError when an action failed, the server vanished, was switched off, or it has no address.
        """
        # Not of one that runs: an action may have failed long ago, for reasons of its own.
        if server.status != "running":
            self._await_start(server)
        off_since: float | None = None

        def running() -> Server:
            nonlocal off_since
            found = self.server(server.id)
            if found is None or found.status != "running":
                self._refuse_a_failure(server.id)
            if found is None:
                raise CloudError(
                    f"Server {server.name} (id {server.id}) vanished while it was waited for.",
                    next_steps=["see who deleted it in the console's activity log, then run the command again"],
                )
            if found.status == "off":
                off_since = time.monotonic() if off_since is None else off_since
                if time.monotonic() - off_since >= OFF_SECONDS:
                    raise CloudError(
                        f"Server {server.name} (id {server.id}) is switched off.",
                        next_steps=[f"switch it on at {CONSOLE} (Power), then run the command again"],
                    )
            if found.status != "running":
                raise NotYet(f"it is {found.status}")
            if found.ipv4 is None:
                raise CloudError(
                    f"Server {server.name} (id {server.id}) runs without a public IPv4 address.",
                    details=["Hetzner leaves it out when the project's quota of primary IPs is spent."],
                    next_steps=[
                        f"raise the limit at {CONSOLE}/limits",
                        ANOTHER_SERVER,
                    ],
                )
            return replace(found, actions=server.actions)

        return until(
            running,
            deadline=self._deadline,
            what=f"server {server.name} to run",
            every=POLL_SECONDS,
            most=MOST_POLL_SECONDS,
            watch=self._watch,
            in_vain=lambda: _past_waiting(server),
        )

    def label_server(self, server_id: int, labels: Mapping[str, str], name: str | None = None) -> Server:
        """Replace a server's labels and, in the same call, its name if one is given."""

        def look() -> Server | None:
            found = self.server(server_id)
            done = found is not None and dict(found.labels) == dict(labels) and name in {None, found.name}
            return found if done else None

        def update() -> Server:
            return _server(self._client.servers.update(ApiServer(id=server_id), name=name, labels=dict(labels)))

        return self._change(f"label server {server_id}", update, look)

    def delete_server(self, server_id: int) -> None:
        """Delete a server and wait until it is gone; one that is gone already is no failure.

        Raises StateError when it is protected: protection is somebody's decision, and never lifted silently.
        """

        def delete() -> list[int]:
            action = _or_none(lambda: self._client.servers.delete(ApiServer(id=server_id)))
            return [] if action is None else [values.number_id(action.id)]

        def look() -> list[int] | None:
            found = self.server(server_id)
            return [] if found is None or found.status == "deleting" else None

        self._await_deletion(server_id, self._change(f"delete server {server_id}", delete, look))

        def gone() -> bool:
            found = self.server(server_id)
            if found is not None:
                self._refuse_a_failure(server_id)
                raise NotYet(f"it is still there, {found.status}")
            return True

        until(
            gone,
            deadline=self._deadline,
            what=f"server {server_id} to be gone",
            every=POLL_SECONDS,
            most=MOST_POLL_SECONDS,
            watch=self._watch,
        )

    def _await_start(self, server: Server) -> None:
        actions = server.actions or self.actions_of(server.id)
        what = f"server {server.name}"
        self._await_actions(actions, what, ANOTHER_SERVER, in_vain=lambda: _past_waiting(server))

    def _await_deletion(self, server_id: int, actions: Sequence[int]) -> None:
        self._await_actions(actions, f"the deletion of {server_id}")

    def _refuse_a_failure(self, server_id: int) -> None:
        """Raise CloudError for what Hetzner could not finish; here the actions themselves were awaited before."""

    def _await_actions(
        self, ids: Sequence[int], what: str, *steps: str, in_vain: Callable[[], Sequence[str]] | None = None
    ) -> None:
        """Wait for all actions with one call per look. Raises CloudError with these next steps when one failed."""
        if not ids:
            return

        def done() -> bool:
            # Deliberately not the SDK's wait_until_finished(): it asks for one action at a time, past any deadline.
            request = self._client.request
            answer = self._ask("read actions", lambda: request("GET", "/actions", params={"id": list(ids)}))
            for action in answer["actions"]:
                if action["status"] == "error":
                    error = action["error"] or {}
                    words = excerpt(f"{error.get('code')}: {error.get('message')}", MOST_WORDS)
                    raise CloudError(
                        f"Hetzner could not finish '{excerpt(str(action['command']), 80)}' for {what}.",
                        details=[f"{words} (action {values.number_id(action['id'])})"],
                        next_steps=[f"see the server's activity at {CONSOLE}", *steps],
                    )
            running = [action for action in answer["actions"] if action["status"] == "running"]
            waiting = [excerpt(f"{action['command']} at {action['progress']} %", 80) for action in running]
            if waiting:
                raise NotYet(", ".join(waiting))
            return True

        until(
            done,
            deadline=self._deadline,
            what=f"Hetzner's work on {what}",
            every=POLL_SECONDS,
            most=MOST_POLL_SECONDS,
            watch=self._watch,
            in_vain=in_vain,
        )

    def _ssh_key_named(self, name: str) -> BoundSSHKey | None:
        return self._ask(f"look for the SSH key {name}", lambda: self._client.ssh_keys.get_by_name(name))

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        return ask(
            lambda: self._call(what, call, changing=False),
            deadline=self._deadline,
            what=f"Hetzner Cloud to {what}",
            watch=self._watch,
        )

    def _change(self, what: str, act: Callable[[], T], look: Callable[[], T | None]) -> T:
        return change(
            lambda: self._call(what, act, changing=True),
            look,
            deadline=self._deadline,
            what=f"Hetzner Cloud to {what}",
            watch=self._watch,
            fence=self._fence,
        )

    def _call(self, what: str, call: Callable[[], T], *, changing: bool) -> T:
        try:
            with self.budget.spent(changing=changing):
                return _call(what, lambda: self._calling.make(call, self._deadline))
        except (requests.exceptions.RequestException, TimeoutError) as error:
            # Not str(error): it may hold the whole request, and reads like a stack trace.
            raise unreached(self._peer, error) from None


class _Bounded(HTTPAdapter):
    """Gives every request a time-out, and none beyond the deadline, and keeps account of the limit of requests."""

    def __init__(self, calling: Calling, budget: Budget, clock: CloudClock) -> None:
        super().__init__(pool_maxsize=CONNECTIONS, pool_block=True)
        self._clock = clock
        self._calling = calling
        self._budget = budget

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        left = self._calling.left()
        kwargs["timeout"] = (min(CONNECT_SECONDS, left), min(ANSWER_SECONDS, left))
        self._budget.sent()
        answer = super().send(request, *args, **kwargs)
        self._clock.learn(answer.headers.get("Date"))
        self._read(answer, Deadline.after(left))
        limit = answer.headers.get("RateLimit-Limit")
        per_second = (values.header_count(limit) or 0) / 3600
        self._budget.answered(limit, answer.headers.get("RateLimit-Remaining"), per_second=per_second)
        after = values.header_count(answer.headers.get("Retry-After"))
        if answer.status_code in {429, 503} and after is not None and 0 < after <= LONGEST_PAUSE:
            # Here, since the SDK's errors carry no headers.
            busy = refusal("", answer.status_code, "", None, None)
            if isinstance(busy, NotYet):
                busy.pause = float(after)
            raise busy
        return answer

    def _read(self, answer: requests.Response, end: Deadline) -> None:
        """Read the body here, within bounds; requests would read whatever comes."""
        raw = answer.raw
        try:
            body = b"".join(
                bounded(iter(lambda: raw.read1(CHUNK, decode_content=True), b""), end, self._calling.amount)
            )
        except TimeoutError as error:
            answer.close()
            raise requests.exceptions.ReadTimeout(error) from None
        except HTTPError as error:
            answer.close()
            raise requests.exceptions.ConnectionError(error) from None
        except TooMuchError:
            answer.close()
            raise
        answer._content, answer._content_consumed = body, True  # noqa: SLF001  # where requests keeps what it has read


def _call(what: str, call: Callable[[], T]) -> T:
    """Make one call; whatever goes wrong leaves as an error of ours or as NotYet."""
    try:
        return call()
    except APIException as error:
        raise refusal(what, error.code, error.message, error.details, error.correlation_id) from None
    except (TooMuchError, requests.exceptions.TooManyRedirects) as error:
        raise unknown_shape("Hetzner Cloud", what, error) from None
    except requests.exceptions.RequestException:
        raise  # some are ValueErrors too
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise unknown_shape("Hetzner Cloud", what, error) from error


def _or_none(call: Callable[[], T]) -> T | None:
    try:
        return call()
    except APIException as error:
        if error.code == "not_found":
            return None
        raise


def _ssh_key(key: BoundSSHKey) -> SshKey:
    public = str(key.public_key)
    base64.b64decode(public.split()[1], validate=True)  # it is told from others by its digest
    return SshKey(id=values.number_id(key.id), name=str(key.name), labels=values.labels(key.labels), public=public)


def _firewall(found: BoundFirewall) -> Firewall:
    rules = [
        FirewallRule(
            port=values.text(rule.port or ""),
            sources=values.networks(rule.source_ips if rule.direction == "in" else rule.destination_ips),
            protocol=values.text(rule.protocol),
            direction=values.text(rule.direction),
            description=values.text(rule.description or ""),
        )
        for rule in found.rules or []
    ]
    attached: list[FirewallResource] = found.applied_to or []
    matched = [one for resource in attached for one in resource.applied_to_resources or []]  # by a label selector
    behind = [one.server for one in attached] + [one.server for one in matched]
    servers = frozenset(values.number_id(server.id) for server in behind if server is not None)
    return Firewall(
        values.number_id(found.id), str(found.name), values.labels(found.labels), tuple(rules), bool(attached), servers
    )


def _api_rule(rule: FirewallRule) -> ApiRule:
    return ApiRule(
        direction=rule.direction,
        protocol=rule.protocol,
        port=rule.port,
        source_ips=sorted(rule.sources),
        description=rule.description,
    )


def _past_waiting(server: Server) -> Sequence[str]:
    """Give what helps with a server that should have started long ago; nothing for a younger one."""
    if (datetime.now(UTC) - server.created).total_seconds() < STUCK_SECONDS:
        return ()
    return (ANOTHER_SERVER, f"or see the server's activity at {CONSOLE}")


def _server(server: BoundServer, actions: Sequence[int] = ()) -> Server:
    address = server.public_net.ipv4 if server.public_net else None
    return Server(
        id=values.number_id(server.id),
        name=str(server.name),
        status=str(server.status),
        ipv4=str(IPv4Address(str(address.ip))) if address else None,  # it will be dialled, and stand in a command line
        server_type=str(server.server_type.name) if server.server_type else "",
        location=str(server.location.name) if server.location else "",
        labels=values.labels(server.labels),
        created=values.moment(server.created or datetime.now(UTC)),
        firewall_ids=tuple(_firewall_statuses(server)),
        actions=tuple(actions),
    )


def _firewall_statuses(server: BoundServer) -> dict[int, str]:
    """Return how each firewall that is attached, or about to be, stands: `applied` or `pending`."""
    found = (server.public_net.firewalls if server.public_net else None) or []
    return {values.number_id(one.firewall.id): str(one.status) for one in found}


def _offer(kind: BoundServerType, location: str, pricing: Mapping[str, Any]) -> ServerOffer | None:
    """Give the offer of a type at a location, or None when it is not, or no longer, to be had there."""
    place = next((place for place in kind.locations or [] if place.location.name == location), None)
    price = next((price for price in kind.prices or [] if price["location"] == location), None)
    if place is None or price is None or _gone(place):
        return None
    return ServerOffer(
        server_type=str(kind.name),
        location=location,
        architecture=str(kind.architecture),
        cores=values.whole(kind.cores, 1, MAX_CORES),
        memory_gb=values.size(kind.memory, MAX_GB),
        disk_gb=values.whole(kind.disk, 1, MAX_GB),
        monthly=_monthly(price, pricing),
        available=bool(place.available),
    )


def _monthly(price: Mapping[str, Any], pricing: Mapping[str, Any]) -> Price:
    """Add the price of a primary IPv4 at the same location."""
    address = next(kind["prices"] for kind in pricing["primary_ips"] if kind["type"] == "ipv4")
    address_price = next(item for item in address if item["location"] == price["location"])
    server = values.amount(price["price_monthly"]["net"])
    net = server + values.amount(address_price["price_monthly"]["net"])
    if server <= 0:
        # An address may be free; a server is not, and to call it so would have somebody order it unasked.
        raise ValueError("a server at no price")
    return Price(net.quantize(CENT), str(pricing["currency"]))


def _gone(place: ServerTypeLocation) -> bool:
    after = place.deprecation.unavailable_after if place.deprecation else None
    return after is not None and values.moment(after) <= datetime.now(UTC)


def _known_names(what: str, asked: Sequence[str], known: Sequence[str], flag: str) -> None:
    for name in asked:
        if name not in known:
            raise ConfigError(
                f"Hetzner Cloud has no {what} named {name!r}.",
                details=[f"there are: {', '.join(known)}"],
                next_steps=[f"choose one of these with {flag}"],
            )
