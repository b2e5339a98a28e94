"""What the program assumes of the vendors, and what a run found out about it.

The ids are those of `clawdet_cli/sandbox/behaviours.toml`; `product.*` are clawdet's own promises, which no such
table holds.
"""

import contextlib
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import clawdet_cli

Outcome = Literal["held", "did not hold", "not tried"]

BEHAVIOURS = Path(clawdet_cli.__file__).parent / "sandbox" / "behaviours.toml"
PRODUCT = "product."

ASSUMPTIONS: dict[str, dict[str, str]] = {
    "accounts": {
        "hetzner.rate-limit": "Every answer says RateLimit-Limit, -Remaining and -Reset.",
        "hetzner.unrouted-before-token": "An unknown path is 404 without a token, a known one 401.",
        "hetzner.datacenters-gone": "GET /datacenters is 410.",
        "hetzner.actions-need-ids": "GET /actions without ids is 410.",
        "hetzner.per-page": "per_page above 50 gives 50, page 0 is refused.",
        "hetzner.selector-without-labels": "A label selector is ignored in the list of locations.",
        "hetzner.location-flags": "Server types say `available` for each location.",
        "hetzner.currency": "The price list names its currency.",
        "hetzner.unknown-ssh-key": "DELETE of an SSH key that cannot exist is 404 not_found, if the token may write.",
        "cloudflare.ratelimit-headers": "Answers say Ratelimit and Ratelimit-Policy in the documented form.",
    },
    "zone": {
        "cloudflare.zone-by-name": "GET /zones?name= gives the zone, with status, name servers and account.",
        "cloudflare.zone-out-of-reach": "A zone that the token does not reach is an empty list, or 403 with code 0.",
        "cloudflare.record-usage": "dns_records/usage says record_usage and record_quota with README's token.",
        "cloudflare.zone-settings": "ssl, security_level, browser_check, websockets, min_tls_version and"
        " always_use_https can be read one by one with README's token.",
        "cloudflare.setting-unknown": "An unknown zone setting is 400 with code 1006.",
        "cloudflare.universal-ssl": "ssl/universal/settings and ssl/verification can be read with README's token.",
        "cloudflare.missing-right": "Without the right, settings, usage and records are 403 with code 10000 or 9109.",
        "cloudflare.certificate-right-lacking": "Without the right, signing is 400 or 403 with code 10000 or 1016.",
    },
    "certificates": {
        "cloudflare.certificate-signed": "The answer to signing has id, expires_on, exactly our host name, and a"
        " certificate with our key.",
        "cloudflare.certificate-created-with-csr": "The answer to signing repeats `csr`.",
        "cloudflare.certificate-read-without-csr": "Reads by id and lists leave `csr` out.",
        "cloudflare.certificate-list-validity-zero": "Lists say a requested_validity of 0.",
        "cloudflare.certificate-read-pem": "Reads by id and lists have the certificate (PEM).",
        "cloudflare.certificate-list-counted": "Lists say page, per_page and total_count.",
        "cloudflare.certificate-revoked-still-read": "A revoked certificate is read by id with `revoked_at`, and not"
        " listed.",
        "cloudflare.certificate-revoked-twice": "A second revocation is refused with code 1014.",
        "cloudflare.certificate-unknown": "An unknown id is refused with code 1101.",
    },
    "rights": {
        "cloudflare.record-unknown": "DELETE of a record that cannot exist is 404 with code 81044.",
        "cloudflare.certificate-unparsable-request": "A CSR that is none is refused with code 1011.",
        "cloudflare.settings-edit-missing": "Editing a setting is 403 without Zone Settings Edit.",
        "cloudflare.tokens-read-missing": "Listing tokens is 403 without API Tokens Read.",
    },
    "edge": {
        "edge.record-in-dns": "A new proxied record is at the zone's name servers within a minute.",
        "edge.record-steady": "After a minute all answers for a new record are the same.",
        "edge.silent-origin": "An origin that does not answer is 522.",
        "edge.clawdet-user-agent": "A request with clawdet's User-Agent is not challenged.",
        "edge.browser-check-bans-no-agent": "With Browser Integrity Check on, no User-Agent is refused: 1010.",
        "edge.browser-check-bans-signatures": "With Browser Integrity Check on, urllib's User-Agent is refused: 1010.",
        "edge.error-page-html": "Who is refused and accepts text/html gets an HTML page, everybody else plain text.",
        "edge.redirect-before-challenge": "Who is refused over https:// is redirected from http:// all the same.",
    },
    "server": {
        "hetzner.unknown-field": "A body field that the API does not know is refused with 422.",
        "hetzner.ssh-key-unique": "The same SSH key a second time is refused with 409 uniqueness_error.",
        "hetzner.unknown-type-or-image": "An unknown server type is refused with 422 or 404.",
        "hetzner.body-size": "A body above 4 MiB is refused with 413.",
        "hetzner.address-at-once": "The answer to an order has the public addresses and a next action with parent_id.",
        "hetzner.no-datacenter": "Servers have no `datacenter`.",
        "hetzner.firewall-from-birth": "A firewall named in the order is applied when the server runs.",
        "guest.host-key": "SSH shows the host key of user_data.",
        "guest.metadata-over-ipv4": "Root reads the metadata at 169.254.169.254.",
        "guest.metadata-over-ipv6": "Root reads the metadata at fe80::a9fe:a9fe.",
        "guest.ssh-by-socket": "ssh.socket is enabled, ssh.service is not.",
        "guest.needrestart-installed": "needrestart is installed.",
        "guest.memory": "A server with 4 GB says 3.5 to 4 GiB in /proc/meminfo.",
        "hetzner.must-be-unassigned": "A primary IP of a running server cannot be deleted: 422 or 409.",
        "hetzner.address-release": "The server's primary IPs go with it, within a minute.",
        "hetzner.firewall-release": "After the server, DELETE of the firewall is refused for a while (in use).",
        "hetzner.firewall-applied-to": "`applied_to` goes on listing the deleted server for a while.",
        "hetzner.read-only-token": "A read-only token's DELETE is refused with code token_readonly.",
    },
    "product": {
        "product.provision": "One `clawdet provision` ends complete.",
        "product.again": "A second one changes nothing.",
        "product.reconcile": "`clawdet reconcile` finds it right.",
        "product.destroy": "`clawdet destroy` removes it, and nothing is left.",
    },
}
"""By subject, in the order in which they are tried."""

BEYOND: dict[str, str] = {
    "cloudflare.zones-of-one-name": "it takes a second zone of the same name",
    "cloudflare.srv-content": "clawdet makes no such record: other clients do",
    "cloudflare.srv-content-filter": "clawdet makes no such record: other clients do",
    "cloudflare.data-numbers-as-text": "clawdet makes no such record: other clients do",
    "cloudflare.page-rules-right": "clawdet has no use for page rules: other clients have",
    "hetzner.server-name-reserved": "an order that were not refused would be a second server",
    "hetzner.order-refusals": "a type that is sold out cannot be had on demand",
    "hetzner.limits": "it takes as many servers as the account may have",
    "hetzner.locked": "the actions of one small server are over before a second call",
    "hetzner.delete-while-initializing": "the one server is waited for until it runs",
    "hetzner.delete-while-initializing-actions": "the one server is waited for until it runs",
    "hetzner.shutdown-is-sent": "the one server is deleted, not shut down",
    "hetzner.actions-kept": "it takes a hundred servers",
    "hetzner.field-messages": "texts are recorded, and nothing depends on them",
    "hetzner.firewall-release-lengths": "lengths are shown as evidence of the release",
    "hetzner.firewall-in-use-by": "it takes a firewall with a label selector",
    "hetzner.firewall-selectors": "it takes a firewall with a label selector",
    "hetzner.action-lengths": "lengths are shown beside each step",
    "guest.updates-at-boot": "it takes a machine from an old image",
    "edge.bot-fight-mode-challenges-programs": "Bot Fight Mode can be neither read nor set with README's token",
    "edge.bot-fight-mode-lets-browsers-pass": "it takes a browser that solves a challenge",
    "edge.rule-block-1020": "it takes a rule of the zone's owner",
    "edge.new-record-unsteady": "what was seen is shown as evidence of edge.record-steady",
    "edge.http2-one-request-a-connection": "it takes an origin that counts connections",
}
"""Behaviours that are `live` or `guess` and that this program cannot try, and why."""


@dataclass(frozen=True)
class Verdict:
    """What was found out about one assumption."""

    id: str
    outcome: Outcome
    evidence: str


@dataclass
class Verdicts:
    """What a run has found out until now."""

    found: dict[str, Verdict] = field(default_factory=dict)

    def judge(self, name: str, held: bool, evidence: str) -> None:
        """Note whether an assumption held; one that did not hold once stays so."""
        before = self.found.get(name)
        if before is None or before.outcome != "did not hold":
            self.found[name] = Verdict(name, "held" if held else "did not hold", evidence)

    def not_tried(self, name: str, why: str) -> None:
        """Note why an assumption was not tried."""
        self.found.setdefault(name, Verdict(name, "not tried", why))

    @contextlib.contextmanager
    def of(self, subject: str) -> Iterator[None]:
        """Note for whatever of a subject stays without a verdict that it was not tried."""
        why = "this run did not come to it"
        try:
            yield
        except Exception as error:
            why = f"the subject broke off: {error}"
            raise
        finally:
            for name in ASSUMPTIONS[subject]:
                self.not_tried(name, why)

    def all(self) -> list[Verdict]:
        """Return a verdict for every assumption, in the order of the table."""
        known = [name for subject in ASSUMPTIONS.values() for name in subject]
        return [self.found.get(name, Verdict(name, "not tried", "left out by --only")) for name in known]


def sentence(name: str) -> str:
    """Return an assumption in words."""
    return next(subject[name] for subject in ASSUMPTIONS.values() if name in subject)


def behaviours() -> dict[str, str]:
    """Return the kinds of all behaviours in the emulators' table, by id."""
    return {one["id"]: one["kind"] for one in tomllib.loads(BEHAVIOURS.read_text())["behaviour"]}
