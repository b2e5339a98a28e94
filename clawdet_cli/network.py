"""How connections leave this machine: through which proxy, and trusting whom. The variables are those of curl."""

import base64
import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from clawdet_cli.errors import ConfigError
from clawdet_cli.secret import Secret

if TYPE_CHECKING:
    import ssl

PROXY_VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
"""The first that is set counts. Everything that is asked from here is asked over TLS, so there is no HTTP_PROXY."""
NO_PROXY_VARIABLES = ("no_proxy", "NO_PROXY")
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy that connects to where it is told with CONNECT."""

    parts: SplitResult
    variable: str
    """Where it was named."""

    @property
    def host(self) -> str:
        """Return the proxy's own name or address."""
        return self.parts.hostname or ""

    @property
    def port(self) -> int:
        """Return the proxy's port."""
        return self.parts.port or 80

    @property
    def url(self) -> str:
        """Return the address with the password in it, for the libraries alone."""
        return self.parts.geturl()

    @property
    def authorization(self) -> Mapping[str, str]:
        """Return the header that the proxy wants, if the address names a user."""
        if self.parts.username is None:
            return {}
        given = f"{unquote(self.parts.username)}:{unquote(self.parts.password or '')}"
        return {"Proxy-Authorization": "Basic " + base64.b64encode(given.encode()).decode()}

    def __str__(self) -> str:
        user = "" if self.parts.username is None else f"{self.parts.username}:***@"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{user}{host}:{self.port} ({self.variable})"

    __repr__ = __str__


@dataclass(frozen=True)
class Network:
    """What the environment says of the way out; nothing of it is judged before it is used."""

    proxy: str = ""
    proxy_variable: str = ""
    no_proxy: str = ""
    ca: Path | None = None
    """File or folder of the certificate authorities that are trusted in place of the usual ones."""
    ca_variable: str = ""

    def proxy_for(self, host: str) -> Proxy | None:
        """Return the proxy that leads to a host. Raises ConfigError for one of a kind that cannot be used."""
        if not self.proxy or is_loopback(host) or self._is_excepted(host):
            return None
        return self._checked_proxy

    @cached_property
    def _checked_proxy(self) -> Proxy:
        text = self.proxy if "://" in self.proxy else f"http://{self.proxy}"
        with contextlib.suppress(ValueError):
            parts = urlsplit(text)
            if parts.scheme.lower() == "http" and parts.hostname and parts.port != 0:
                return Proxy(parts, self.proxy_variable)
        # Not shown: it may hold a password.
        raise ConfigError(
            f"The proxy that {self.proxy_variable} names cannot be used: http://[USER:PASSWORD@]HOST:PORT is expected.",
            next_steps=[
                f"correct {self.proxy_variable}, or set HTTPS_PROXY, which goes before ALL_PROXY",
                "or have NO_PROXY name the hosts that are reached without it: NO_PROXY=.hetzner.cloud,.cloudflare.com",
            ],
        )

    def _is_excepted(self, host: str) -> bool:
        """Return whether NO_PROXY names the host, a domain that it is in, or a network that it is in."""
        name = host.lower().rstrip(".")
        for entry in self.no_proxy.lower().replace(" ", ",").split(","):
            domain = re.sub(r":\d+$", "", entry).removeprefix("*").removeprefix(".")
            if entry == "*" or (domain and (name == domain or name.endswith(f".{domain}"))):
                return True
            with contextlib.suppress(ValueError):
                if ip_address(name) in ip_network(entry, strict=False):
                    return True
        return False

    def trust(self) -> "ssl.SSLContext | None":
        """Return the authorities that are trusted; None where it is the usual ones. Raises ConfigError."""
        if self.ca is None:
            return None
        import ssl  # noqa: PLC0415  # it takes long to load

        try:
            if self.ca.is_dir():
                return ssl.create_default_context(capath=str(self.ca))
            return ssl.create_default_context(cafile=str(self.ca))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self.ca_variable} names {self.ca}, which cannot be read as certificates (PEM): {error}.",
                next_steps=[f"correct {self.ca_variable}, or unset it to trust the usual authorities"],
            ) from None


DIRECT = Network()


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, which no proxy ever stands before."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def from_environment(environment: Mapping[str, str]) -> Network:
    """Return what the environment says; a password in it is masked from here on wherever anything is written."""
    proxy_variable = next((name for name in PROXY_VARIABLES if environment.get(name)), "")
    proxy = environment.get(proxy_variable, "").strip()
    with contextlib.suppress(ValueError):
        password = urlsplit(proxy if "://" in proxy else f"http://{proxy}").password or ""
        for written in {password, unquote(password)}:
            Secret(written)  # from here on it is masked wherever it is written
    ca_variable = next((name for name in CA_VARIABLES if environment.get(name)), "")
    return Network(
        proxy=proxy,
        proxy_variable=proxy_variable,
        no_proxy=next((environment[name] for name in NO_PROXY_VARIABLES if environment.get(name)), ""),
        # An unknown ~USER stays as it is here, and is named as what cannot be read.
        ca=Path(os.path.expanduser(environment[ca_variable])) if ca_variable else None,  # noqa: PTH111  # Path raises
        ca_variable=ca_variable,
    )
