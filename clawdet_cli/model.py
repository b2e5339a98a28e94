"""The values that travel between the layers: frozen, and without behaviour beyond their own meaning."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from clawdet_cli.errors import UsageError
from clawdet_cli.money import Price, totals
from clawdet_cli.secret import Secret

RESERVED_USERS = frozenset(
    "abuse admin administrator api app apps assets autoconfig autodiscover billing cdn clawdet cloud cname"
    " console cpanel dashboard dns email ftp host hostmaster http https imap info"
    " internal intranet localhost login mail mail1 mail2 mta mx mx1 mx2 ns ns1 ns2 ns3 ns4 openclaw"
    " pop pop3 portal postmaster proxy root sandbox secure security server smtp ssh ssl staging stats"
    " status sysadmin vpn webdisk webmail webmaster wpad ws wss www www1 www2".split()
)
"""Names that other services, mail clients or browsers give a meaning of their own (failure-modes F11)."""

PROJECT = "clawdet"
"""What the journal calls the whole project; being reserved, it is no user's name."""

POOL = "pool."
"""Begins the name by which a server that waits in the pool is recorded: with the dot it can be no user's."""

_USER = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", re.ASCII)
USER_RULE = (
    "a user name is 1 to 40 characters of a-z, 0-9 and '-', neither beginning nor ending with '-',"
    " without dots (Cloudflare's certificate covers one level), not beginning with 'xn--', and not a reserved word"
    " such as www, mail or api"
)


def checked_user(name: str) -> str:
    """Return the name if it can be a host name label of ours.

    At most 40 characters: server name, labels and the DNS comment of a free zone (100) hold it and the run id.
    Raises UsageError with the rule.
    """
    if not is_user(name):
        raise UsageError(f"{name!r} cannot be a user name: {USER_RULE}.", next_steps=["choose another name"])
    return name


def is_user(name: str) -> bool:
    """Say whether a text can be a user name."""
    return bool(_USER.fullmatch(name)) and not name.startswith("xn--") and name not in RESERVED_USERS


def now_text() -> str:
    """Give the time as it is recorded and shown: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Status(StrEnum):
    """Where an instance stands; the same words in the database, in JSON and on the screen."""

    PENDING = "pending"
    CREATING_VPS = "creating_vps"
    CONFIGURING_DNS = "configuring_dns"
    INSTALLING = "installing"
    COMPLETE = "complete"
    FAILED = "failed"
    DESTROYING = "destroying"
    DESTROYED = "destroyed"


@dataclass(frozen=True)
class ServerOffer:
    """A server type at a location, with what it costs there."""

    server_type: str
    location: str
    architecture: str
    """`x86` or `arm`, Hetzner's words."""
    cores: int
    memory_gb: float
    disk_gb: int
    monthly: Price
    """Per month without VAT, the primary IPv4 included."""
    available: bool
    """What the API says; it is wrong in both directions, so it only breaks ties."""


@dataclass(frozen=True)
class ServerOrder:
    """What POST /servers is to be asked for."""

    name: str
    server_type: str
    location: str
    image: str
    ssh_key_id: int
    user_data: Secret
    """It holds the host key that is sent."""
    labels: Mapping[str, str]
    firewall_ids: tuple[int, ...] = ()
    """Attached in the create call, so that they hold from the first packet."""


@dataclass(frozen=True)
class FirewallRule:
    """What a provider firewall lets in."""

    port: str
    """`22`, `100-200` or `any`; empty for protocols without ports."""
    sources: frozenset[str]
    """Networks as CIDR."""
    protocol: str = "tcp"
    direction: str = "in"
    description: str = field(default="", compare=False)


@dataclass(frozen=True)
class Firewall:
    """A firewall in the Hetzner project, ours or not."""

    id: int
    name: str
    labels: Mapping[str, str]
    rules: tuple[FirewallRule, ...]
    in_use: bool
    """Whether it is attached to anything."""
    servers: frozenset[int] = frozenset()
    """Ids of the servers that it is said to be attached to: a deleted one may stay among them for a while."""


@dataclass(frozen=True)
class Server:
    """A server at Hetzner, ours or not."""

    id: int
    name: str
    status: str
    """Hetzner's word: initializing, starting, running, off, deleting, ..."""
    ipv4: str | None
    server_type: str
    location: str
    labels: Mapping[str, str]
    created: datetime
    firewall_ids: tuple[int, ...] = ()
    """The firewalls that are attached to it, or about to be."""
    actions: tuple[int, ...] = ()
    """Ids of actions that the create call began."""


@dataclass(frozen=True)
class SshKey:
    """An SSH key in the Hetzner project, ours or not."""

    id: int
    name: str
    labels: Mapping[str, str]
    public: str
    """`ssh-ed25519 AAAA...`, perhaps with a comment."""


@dataclass(frozen=True)
class Zone:
    """A DNS zone at Cloudflare."""

    id: str
    name: str
    status: str
    """`active`, or why not: initializing, pending, deleted, moved."""
    paused: bool
    name_servers: tuple[str, ...]
    account_id: str


@dataclass(frozen=True)
class EdgeCertificate:
    """A certificate that Cloudflare's edge shows visitors of a zone, or is to show."""

    status: str
    """`active`, or why not: initializing, pending_validation, expired, ..."""
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class DnsRecord:
    """A DNS record at Cloudflare, ours or not."""

    id: str
    name: str
    type: str
    content: str
    proxied: bool
    comment: str
    created: datetime


_COMMENT = re.compile(r"clawdet:([a-z0-9-]+):([a-z0-9]{12})", re.ASCII)
_RUN = re.compile(r"[a-z0-9]{12}", re.ASCII)
_MEMBER = re.compile(r"pool\.[a-z0-9]{8}", re.ASCII)
ZONE = re.compile(r"(?=.{3,200}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]", re.ASCII)


def maker_of(comment: str) -> tuple[str, str] | None:
    """Give the user and the run that a record's comment names; None for a comment that is not clawdet's."""
    match = _COMMENT.fullmatch(comment)
    return None if match is None or not is_user(match[1]) else (match[1], match[2])


def maker_by_labels(labels: Mapping[str, str]) -> tuple[str, str] | None:
    """Give the user and the run that a server's labels name; None for labels that clawdet does not write."""
    user, run = str(labels.get("user")), str(labels.get("run"))
    if labels.get("managed-by") != "clawdet" or not is_user(user) or not _RUN.fullmatch(run):
        return None
    return user, run


def member_by_labels(labels: Mapping[str, str]) -> str | None:
    """Give the name of the pool's server that has these labels; None for labels that clawdet does not write."""
    name, run = f"{POOL}{labels.get('pool')}", str(labels.get("run"))
    # A user's server to which somebody has given such a label is the user's.
    ours = labels.get("managed-by") == "clawdet" and "user" not in labels and is_member(name) and _RUN.fullmatch(run)
    return name if ours else None


def is_member(name: str) -> bool:
    """Say whether a server of the pool can have this name."""
    return _MEMBER.fullmatch(name) is not None


def zone_by_labels(labels: Mapping[str, str]) -> str | None:
    """Give the zone that a server's labels name, if it can be one."""
    zone = str(labels.get("zone"))
    return zone if ZONE.fullmatch(zone) else None


@dataclass(frozen=True)
class Certificate:
    """An Origin CA certificate; it carries no label, so its public key and host names tell whose it is."""

    id: str
    hostnames: tuple[str, ...]
    """Empty where Cloudflare did not say them, and did not give the certificate itself either."""
    key: str | None
    """SHA-256 of its public key, hex; None where Cloudflare gave nothing to tell it from."""
    pem: str
    """Empty where Cloudflare did not give it."""

    def is_of(self, host: str, key: str | None) -> bool:
        """Return whether it is provably for exactly this host and this key."""
        return key is not None and self.key == key and self.hostnames == (host,)

    def may_be_of(self, host: str) -> bool:
        """Return whether nothing that Cloudflare gave tells whose it is, and it may be for this host."""
        return self.key is None and self.hostnames in ((host,), ())


@dataclass(frozen=True)
class HostKey:
    """An SSH host key made before its server exists."""

    private: Secret
    """OpenSSH format; travels in user_data only and is never stored."""
    public: str
    """`ssh-ed25519 AAAA...`, without a comment."""


CHECK_NAMES = ("server", "dns", "openclaw", "gateway", "landing_page", "recorded")


class Result(StrEnum):
    """What a check came to; the same words in the database and in JSON."""

    OK = "ok"
    FAILED = "failed"
    NOT_JUDGED = "not_judged"
    """Cloudflare itself kept clawdet out, and the VPS answers as it should behind it."""


@dataclass(frozen=True)
class Check:
    """One of the six success criteria, with what was seen."""

    name: str
    result: Result
    evidence: str
    at: str = ""
    """UTC, ISO 8601."""


@dataclass(frozen=True)
class StageRun:
    """A stage of the newest run on an instance."""

    name: str
    status: str
    """`running`, `done`, `failed`."""
    seconds: float


class Standing(NamedTuple):
    """How an instance stands, in a line: a list of ten thousand reads no more of each."""

    user: str
    status: Status
    url: str | None
    ipv4: str | None
    server_type: str | None
    created_at: str
    error: str | None
    checks: int
    """How many were run the last time."""
    failed: tuple[str, ...]
    """Those of them that failed."""
    not_judged: tuple[str, ...]
    """Those of them that Cloudflare kept from being judged."""
    checked_at: str
    """UTC, ISO 8601; empty when that is not known."""

    @property
    def healthy(self) -> bool:
        """Return whether it is complete, and no check failed when they were last run."""
        return self.status is Status.COMPLETE and self.checks > 0 and not self.failed


class EffectOutcome(StrEnum):
    """What came of something that was to be done to a cloud or a VPS."""

    DONE = "done"
    REFUSED = "refused"
    """A clear no: nothing was changed."""
    ABSENT = "absent"
    """Looked for after an interruption, and not there."""
    LEFT = "left"
    """Looked at after an interruption: a later step finds by itself how it stands, or it is not ours to touch."""
    ORPHANED = "orphaned"
    """Done, and known only after another run had taken the instance over: it is not recorded as the instance's."""


@dataclass(frozen=True)
class Effect:
    """Something that was to be done to a cloud or a VPS, as the journal has it."""

    id: int
    user: str
    run_id: str
    stage: str
    kind: str
    """`create_server`, ...: the word in the `with run.effect(...)` that does it."""
    name: str
    """The name or id of what it is done to."""
    data: Mapping[str, Any]
    """What a later look needs: labels, price, content, CSR."""
    begun_at: str
    """UTC, ISO 8601."""


@dataclass(frozen=True)
class Instance:
    """One user's instance, or a server that waits for a user in the pool, as the database has it."""

    user: str
    """Of a server of the pool its name, `pool.` and 8 characters: the dot makes it no user's."""
    zone: str
    run_id: str
    """12 characters of [a-z0-9]; on every resource, so that a lost database can be made anew."""
    status: Status
    sandbox: bool
    created_at: str
    updated_at: str
    server_id: int | None = None
    server_type: str | None = None
    location: str | None = None
    image: str | None = None
    monthly: str | None = None
    """Euro per month without VAT, as a decimal string."""
    ipv4: str | None = None
    host_key: str | None = None
    """The pinned public key, `ssh-ed25519 AAAA...`."""
    next_host_key: str | None = None
    """The one that is about to take its place: until it was seen, either is accepted."""
    zone_id: str | None = None
    record_id: str | None = None
    certificate_id: str | None = None
    csr: str | None = None
    openclaw_version: str | None = None
    installed: str | None = None
    """What the VPS said that it installed, and from what: `NAME=VERSION NAME=DIGEST ...`."""
    url: str | None = None
    error: str | None = None
    """What the last run failed with, in one line."""
    checks: tuple[Check, ...] = ()
    stages: tuple[StageRun, ...] = ()
    open_effects: tuple[Effect, ...] = ()
    """What was begun and is not known to have ended, when the row was read: by a run that works, or one that died."""

    @property
    def standing(self) -> Standing:
        """Give what a list tells of it."""
        return Standing(
            user=self.user,
            status=self.status,
            url=self.url,
            ipv4=self.ipv4,
            server_type=self.server_type,
            created_at=self.created_at,
            error=self.error,
            checks=len(self.checks),
            failed=tuple(one.name for one in self.checks if one.result is Result.FAILED),
            not_judged=tuple(one.name for one in self.checks if one.result is Result.NOT_JUDGED),
            checked_at=self.checks[0].at if self.checks else "",
        )

    @property
    def pooled(self) -> bool:
        """Say whether this is a server that waits in the pool."""
        return self.user.startswith(POOL)

    @property
    def host(self) -> str:
        """Give the public host name; a server of the pool has none, and is called by its own."""
        return self.server_name if self.pooled else f"{self.user}.{self.zone}"

    @property
    def server_name(self) -> str:
        """Give the server's name, unique in the Hetzner project: the real lock against two orders."""
        return f"clawdet-{self.user}"

    @property
    def host_keys(self) -> tuple[str, ...]:
        """Give the host keys that are accepted."""
        return tuple(key for key in (self.host_key, self.next_host_key) if key)

    @property
    def labels(self) -> dict[str, str]:
        """Give the labels that make a server ours."""
        whose = {"pool": self.user.removeprefix(POOL)} if self.pooled else {"user": self.user}
        return {"managed-by": "clawdet", **whose, "run": self.run_id}

    @property
    def zone_label(self) -> dict[str, str]:
        """Give the label that tells a lost database the zone; Hetzner's label values have 63 characters at most."""
        return {"zone": self.zone} if 0 < len(self.zone) <= 63 else {}

    @property
    def comment(self) -> str:
        """Give the DNS comment that makes a record ours; free zones have no tags."""
        return f"clawdet:{self.user}:{self.run_id}"


class Verdict(StrEnum):
    """How a right of a token stands to what clawdet needs."""

    HAS = "has"
    LACKS = "lacks"
    GOES_WITHOUT = "goes without"
    """It lacks one that clawdet can do without, in the way that the text tells."""
    TOO_MUCH = "too much"
    UNKNOWN = "unknown"
    """No answer told whether it has it."""


@dataclass(frozen=True)
class Right:
    """What a token may do, or how a zone is set, as it was found out by asking."""

    token: str
    """The variable that holds it: `HCLOUD_TOKEN`, `CLOUDFLARE_API_TOKEN`; or `zone NAME`."""
    name: str
    verdict: Verdict
    text: str
    """What the right is for, or what is wrong with having it."""


@dataclass(frozen=True)
class Device:
    """A browser or app that asks to use a gateway, or may; all in its own words but for the address and the ids."""

    id: str
    """The digest of its public key, in hex."""
    request: str | None
    """What an approval names; None for one that is let in already."""
    platform: str
    client: str
    address: str
    scopes: tuple[str, ...]
    """What it may do, or wants to: `operator.read`, ..."""
    at: str
    """When it asked, or was let in. UTC, ISO 8601."""


@dataclass(frozen=True)
class Devices:
    """Who asks to use a gateway, and who may."""

    pending: tuple[Device, ...]
    paired: tuple[Device, ...]


@dataclass(frozen=True)
class Event:
    """Something that a watcher of a run wants to know."""

    kind: str
    """stage_started, stage_finished, step_started, step_finished, note, log; of many users also run_started,
    run_finished."""
    at: str
    """UTC, ISO 8601."""
    stage: str = ""
    step: str = ""
    text: str = ""
    status: str = ""
    """For finished: done, skipped, failed; of a check also not_judged."""
    seconds: float = 0.0
    user: str = ""
    """Whose run it is, where there are several."""


Watcher = Callable[[Event], None]


@dataclass(frozen=True)
class Deadline:
    """A point in time (monotonic) that bounds every wait of a command."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """Make the deadline that lies so many seconds ahead."""
        return cls(time.monotonic() + seconds)

    def left(self) -> float:
        """Give the seconds that are left, never below zero."""
        return max(0.0, self.at - time.monotonic())

    def within(self, seconds: float) -> "Deadline":
        """Give the earlier of this deadline and one so many seconds ahead."""
        return Deadline(min(self.at, time.monotonic() + seconds))


@dataclass(frozen=True)
class Plan:
    """What provisioning would make, before anything is made."""

    user: str
    host: str
    url: str
    server_name: str
    image: str
    candidates: tuple[ServerOffer, ...]
    """In the order in which they would be tried; the first is the expected one."""
    openclaw_version: str
    node_version: str
    caddy_version: str
    model: str | None
    provider_keys: tuple[str, ...]
    """Names of the variables, never values."""
    exists: tuple[str, ...]
    """Resources of this instance that are there already and would be kept."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Member:
    """A server of the pool, and how it stands."""

    instance: Instance
    unfit: str | None
    """Why it is given to nobody; None for one that waits for a user."""
    days: float
    """Since it was ordered."""


@dataclass(frozen=True)
class PoolPlan:
    """What filling the pool would come to."""

    wanted: int
    ready: tuple[Instance, ...]
    fill: tuple[str, ...]
    """What is to be made, or made ready: names of new servers, and of such as were begun before."""
    drain: tuple[Instance, ...]
    """What is too old, not well, or not needed, and will be removed."""
    offers: tuple[ServerOffer, ...]
    """What is ordered, in the order to try; empty where nothing is."""
    ordered: int
    """How many of those to be made have no server yet."""


@dataclass(frozen=True)
class Holdings:
    """What an instance consists of in the clouds, in the order in which it would be removed."""

    user: str
    host: str
    found: tuple[str, ...]
    """One line for each resource."""
    monthly: str | None
    instance: Instance | None
    """None when nothing is known of such a user anywhere."""
    seen: tuple[str, ...] = ()
    """How it stands, where another database made it."""


@dataclass(frozen=True)
class Destroyed:
    """What a destroy removed, and what was proved to be absent after it."""

    user: str
    removed: tuple[str, ...]
    absent: tuple[str, ...]
    calls: Mapping[str, int] = field(default_factory=dict)
    """How many calls it took, by cloud."""
    not_judged: tuple[str, ...] = ()
    """What was left, since Cloudflare does not show whose it is: certificates, which cost nothing."""
    may_appear: tuple[str, ...] = ()
    """What a run that was killed had just asked a cloud for, and was not there yet."""


class Category(StrEnum):
    """How something stands between the database, the clouds and the VPS."""

    RIGHT = "right"
    DRIFTED = "drifted"
    """Ours, and not as it is recorded."""
    ADOPTABLE = "adoptable"
    """Provably ours, and not recorded as such."""
    GHOST = "ghost"
    """In the database only."""
    ORPHAN = "orphan"
    """In a cloud only: made by clawdet, and of no instance that this database knows."""


@dataclass(frozen=True)
class Finding:
    """One thing that was compared."""

    category: Category
    kind: str
    """server, record, certificate, ssh_key, vps, instance or journal."""
    user: str
    name: str
    id: str
    what: str
    """In one sentence, how it stands."""
    monthly: Price | None = None
    """Per month without VAT, where it costs something."""
    fix: str = ""
    """What --fix does about it; empty where it needs a decision, or nothing."""
    decision: str = ""
    """What a person has to do or decide, as a command where there is one."""


@dataclass(frozen=True)
class Reconciled:
    """What a comparison of everything with everything showed."""

    findings: tuple[Finding, ...]
    """As it stands now, after what was mended."""
    foreign: Mapping[str, int]
    """How many there are that are not clawdet's, by kind; they are counted and nothing more."""
    mended: tuple[Finding, ...] = ()
    """As it was before."""
    busy: Mapping[str, str] = field(default_factory=dict)
    """Users that another run is working on, and who that is: nothing of theirs was judged."""
    damaged: Mapping[str, str] = field(default_factory=dict)
    """Users of whom what is recorded cannot be read, and why: nothing of theirs was judged."""

    @property
    def clean(self) -> bool:
        """Say whether everything is as it should be."""
        return not (self.busy or self.damaged) and all(finding.category is Category.RIGHT for finding in self.findings)

    @property
    def orphans_monthly(self) -> list[Price]:
        """Sum up what orphans cost per month without VAT, by currency."""
        return totals(one.monthly for one in self.findings if one.category is Category.ORPHAN and one.monthly)
