"""Take out of recorded answers what is somebody's: secrets, ids, addresses, names; what has a shape keeps it.

The same thing gets the same placeholder throughout a run, numbered in the order of appearance.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

PLAIN_HEADERS = frozenset(
    "allow cache-control cf-cache-status cf-mitigated connection content-length content-type date link location"
    " ratelimit ratelimit-limit ratelimit-policy ratelimit-remaining ratelimit-reset retry-after server"
    " transfer-encoding vary x-ratelimit-limit x-ratelimit-remaining x-ratelimit-reset".split()
)
"""Headers whose values stay, scrubbed as text; of all others only the name and the value's length stay."""

PRIVATE_KEYS = frozenset(
    "email original_registrar original_dnshost original_name_servers vanity_name_servers root_password betas".split()
)
OWNERS = frozenset({"account", "owner", "tenant", "tenant_unit", "user"})
"""Objects whose `name` is a person's or a company's."""

PUBLIC_ADDRESSES = frozenset({"0.0.0.0", "::", "127.0.0.1", "192.0.2.1", "169.254.169.254", "fe80::a9fe:a9fe"})  # noqa: S104  # no bind
"""Addresses that are the same for everybody."""

PLACEHOLDER_NETWORKS = {4: ipaddress.ip_address("198.18.0.0"), 6: ipaddress.ip_address("2001:db8::")}
"""Reserved for tests (RFC 2544) and for documentation (RFC 3849)."""

NEUTRAL = "live-word"
LONG = 5
"""Digits from which on a number outside of an id's field is compared with the ids that were seen."""
FIRST, LAST = "\ue000", "\uf8ff"
"""Characters for private use (Unicode): they stand for placeholders while a text is worked on."""
PRIVATE_USE = re.compile(f"[{FIRST}-{LAST}]")

_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?(?:-----END \1-----|\Z)", re.DOTALL)
_SSH_KEY = re.compile(r"\b(ssh-[a-z0-9-]+|ecdsa-sha2-[a-z0-9-]+) [A-Za-z0-9+/=]{30,}(?: [^\s\"]+)?")
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")
_NAME_SERVER = re.compile(r"\b[a-z]+\.ns\.cloudflare\.[a-z]+\b")
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)
_RAY = re.compile(r"\b[0-9a-f]{16}(?:-[A-Z]{3})?\b")
_FINGERPRINT = re.compile(r"\b(?:[0-9a-f]{2}:){7,}[0-9a-f]{2}\b", re.IGNORECASE)
_SHA256 = re.compile(r"\bSHA256:[A-Za-z0-9+/]{30,}=?")
_IPV6 = re.compile(r"(?<![0-9A-Za-z:])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:\.\d{1,3}){0,3}(?![0-9A-Za-z:])")
_IPV4 = re.compile(r"(?<!\d)\d{1,3}(?:([.-])\d{1,3})(?:\1\d{1,3}){2}(?!\d)")
_HEX = re.compile(r"\b[0-9a-f]{16,}\b")
_SHORT_ID = re.compile(r"(?<=/)\d{1,14}(?=[/?]|$)")
_LONG_NUMBER = re.compile(r"\b\d{15,}\b")
_NUMBER = re.compile(rf"\b\d{{{LONG},}}\b")
_OPAQUE = re.compile(r"(?=[A-Za-z_+-]*\d)[A-Za-z0-9_+-]{40,}={0,2}|(?=[A-Za-z/+]*\d)[A-Za-z0-9+/]{60,}={0,2}")


class Scrubber:
    """Replaces what is somebody's in text, JSON and headers."""

    def __init__(self, *, zone: str, word: str, secrets: Iterable[str] = (), folders: Iterable[str] = ()) -> None:
        """`word` is the random part of every name that the run gives; `folders` are local paths."""
        self._zone = zone.lower()
        self._word = word
        self._secrets = [secret for secret in secrets if secret]
        self._folders = sorted(filter(None, folders), key=len, reverse=True)
        self._seen: dict[str, dict[str, int]] = {}
        host = re.compile(rf"((?:[a-z0-9_*-]+\.)*){re.escape(self._zone)}\b", re.IGNORECASE)
        self._replacements: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
            (_PEM, lambda match: f"-----BEGIN {match[1]}-----\n<pem>\n-----END {match[1]}-----\n"),
            (_SSH_KEY, lambda match: f"{match[1]} <key-{self._number('key', match[0])}>"),
            (_EMAIL, lambda match: f"person-{self._number('email', match[0])}@mail.example"),
            (host, self._of_zone),
            (_NAME_SERVER, lambda match: f"server{self._number('name server', match[0])}.ns.cloudflare.com"),
            (_UUID, lambda match: f"00000000-0000-0000-0000-{self._number('uuid', match[0]):012x}"),
            (_RAY, lambda _: "<ray>"),
            (_SHA256, lambda _: "SHA256:<digest>"),
            (_FINGERPRINT, lambda match: f"<fingerprint-{self._number('fingerprint', match[0])}>"),
            (_IPV6, self._address),
            (_IPV4, self._address),
            (_LONG_NUMBER, lambda match: f"{self._number('id', match[0]):0{len(match[0])}}"),
            (_HEX, lambda match: f"{self._number('hex', match[0]):0{len(match[0])}x}"),
            (_NUMBER, self._known_id),
            (_OPAQUE, lambda match: f"<{len(match[0])} characters>"),
        )

    def text(self, text: str) -> str:
        """Return a text without what is somebody's."""
        for secret in self._secrets:
            text = text.replace(secret, "<secret>")
        for folder in self._folders:
            text = text.replace(folder, "<folder>")
        text = text.replace(f"live-{self._word}", NEUTRAL)
        text = PRIVATE_USE.sub("", text)
        placeholders: list[str] = []
        for pattern, replace in self._replacements:
            # A placeholder is one character until the end, so that no later pattern finds anything in it.
            text = pattern.sub(partial(_put_by, placeholders, replace), text)
        return PRIVATE_USE.sub(lambda match: placeholders[ord(match[0]) - ord(FIRST)], text)

    def value(self, value: Any, key: str = "", inside: str = "") -> Any:
        """Return a JSON value without what is somebody's; `inside` is the key of the object that it is in."""
        if isinstance(value, dict):
            return {self.text(str(name)): self.value(part, name, key) for name, part in value.items()}
        if isinstance(value, list):
            return [self.value(part, key, inside) for part in value]
        if isinstance(value, str):
            return self._string(value, key, inside)
        if isinstance(value, int) and not isinstance(value, bool):
            return self._integer(value, key)
        return value

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return headers without what is somebody's."""
        return {
            name.lower(): self.text(value) if name.lower() in PLAIN_HEADERS else f"<{len(value)} characters>"
            for name, value in headers.items()
        }

    def path(self, path: str) -> str:
        """Return the path of a request; a number in it is an id whether or not it was seen before."""
        return self.text(_SHORT_ID.sub(lambda match: str(self._number("id", match[0])), path))

    def document(self, content: Any) -> str:
        """Return a JSON document without what is somebody's, as text."""
        return self.written(self.value(content))

    def written(self, scrubbed: Any) -> str:
        """Return what was scrubbed as a text; it is not scrubbed twice, since that would number placeholders."""
        written = json.dumps(scrubbed, indent=1, ensure_ascii=False)
        for secret in [*self._secrets, self._zone]:  # whatever form it came in, it does not go out
            written = written.replace(secret, "<secret>")
        return written + "\n"

    def _integer(self, value: int, key: str) -> int:
        if key == "id" or key.endswith("_id"):
            return self._number("id", str(value))
        return self._seen.get("id", {}).get(str(value), value) if value >= 10 ** (LONG - 1) else value

    def _string(self, value: str, key: str, inside: str) -> str:
        if key in PRIVATE_KEYS:
            return "<text>"
        if value == self._word:
            return "word"
        if key == "name" and inside in OWNERS:
            return f"name-{self._number('name', value)}"
        text = self.text(value)
        if key == "hostnames" and not text.endswith(".example"):
            return f"host-{self._number('host', value)}.example"
        if (key == "id" or key.endswith("_id")) and text == value and re.search(r"\d", value):
            return f"<id-{self._number('id', value)}>"
        return text

    def _of_zone(self, match: re.Match[str]) -> str:
        label = match[1].lower().rstrip(".")
        if not label or label == "*" or label.startswith((NEUTRAL, f"clawdet-{NEUTRAL}")):
            return f"{match[1]}zone.example"
        return f"name-{self._number('host', label)}.zone.example"

    def _address(self, match: re.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(match[0].replace("-", "."))
        except ValueError:
            return match[0]
        if str(address) in PUBLIC_ADDRESSES:
            return match[0]
        number = self._number(f"ipv{address.version}", str(address))
        return str(PLACEHOLDER_NETWORKS[address.version] + number)

    def _known_id(self, match: re.Match[str]) -> str:
        number = self._seen.get("id", {}).get(match[0])
        return match[0] if number is None else str(number)

    def _number(self, kind: str, thing: str) -> int:
        known = self._seen.setdefault(kind, {})
        return known.setdefault(thing, len(known) + 1)


def _put_by(placeholders: list[str], replace: Callable[[re.Match[str]], str], match: re.Match[str]) -> str:
    placeholder = replace(match)
    if placeholder == match[0]:
        return placeholder
    placeholders.append(placeholder)
    return chr(ord(FIRST) + len(placeholders) - 1)
