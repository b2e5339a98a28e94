"""Connections through the proxy of this network, and what it means when one does not come about."""

import http.client
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from clawdet_cli.adapters.clock import SET_IT, CloudClock
from clawdet_cli.adapters.retry import Lost
from clawdet_cli.errors import ConfigError
from clawdet_cli.network import Network, Proxy, is_loopback
from clawdet_cli.secret import excerpt

_STATUS = re.compile(r"(?:^|Tunnel connection failed: )([345]\d\d)\b")
"""As httpcore says what a proxy answered, and as http.client does, which urllib3 uses."""
_MAX_WORDS = 200
_CLOCK_SECONDS = 1.5
"""How long whoever is not trusted may take to say what time it is."""


@dataclass(frozen=True)
class Peer:
    """A cloud that is asked, and what is known of the way to it."""

    cloud: str
    host: str
    port: int
    network: Network
    clock: CloudClock


def open_connection(network: Network, host: str, address: tuple[str, int], timeout: float) -> socket.socket:
    """Connect to an address that `host` has, through the proxy that leads to that host. Raises OSError."""
    proxy = None if is_loopback(address[0]) else network.proxy_for(host)
    if proxy is None:
        return socket.create_connection(address, timeout=timeout)
    try:
        return _tunnel(proxy, address, timeout)
    except _RefusedError as refused:
        if refused.status == http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            raise
        # Many allow names alone. By address first, since a proxy may remember that the name did not exist.
        return _tunnel(proxy, (host, address[1]), timeout)


class _RefusedError(OSError):
    def __init__(self, proxy: Proxy, to: str, status: int) -> None:
        super().__init__(f"the proxy {proxy} refuses to connect to {to} ({status})")
        self.status = status


def _tunnel(proxy: Proxy, to: tuple[str, int], timeout: float) -> socket.socket:
    connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=timeout)
    connection.set_tunnel(to[0], to[1], headers=dict(proxy.authorization))
    try:
        connection.connect()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        if status := _status(error):
            raise _RefusedError(proxy, f"{to[0]}:{to[1]}", status) from None
        raise OSError(f"no answer from the proxy {proxy} ({type(error).__name__})") from None
    return connection.sock


def unreached(peer: Peer, error: BaseException) -> ConfigError | Lost:
    """Return what a request means that got no answer: a ConfigError where to ask again would not help."""
    cloud, host, proxy = peer.cloud, peer.host, peer.network.proxy_for(peer.host)
    chain = list(_causes(error))
    untrusted = next((one for one in chain if isinstance(one, ssl.SSLCertVerificationError)), None)
    if untrusted is not None:
        return _untrusted(peer, proxy, untrusted)
    if any(isinstance(one, ssl.SSLError) for one in chain):
        return Lost(f"the TLS connection to {cloud} failed ({type(error).__name__})")
    if proxy is None:
        return Lost(f"no answer from {cloud} ({type(error).__name__})")
    refused = next((one for one in chain if "Proxy" in type(one).__name__), None)
    status = _status(refused) if refused is not None else None
    if status == http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return ConfigError(
            f"The proxy {proxy} wants a user's name and password, or does not accept these (407).",
            next_steps=[f"set them: export {proxy.variable}=http://USER:PASSWORD@{proxy.host}:{proxy.port}"],
        )
    if status is not None and status < http.HTTPStatus.INTERNAL_SERVER_ERROR:
        return ConfigError(
            f"The proxy {proxy} refuses to connect to {cloud} ({status}).",
            next_steps=[
                f"have it allow {host}, port 443",
                f"or, where {host} is reached without it: export NO_PROXY={host}",
            ],
        )
    said = f"it said {status}" if status else type(error).__name__
    return Lost(f"no answer from {cloud} through the proxy {proxy} ({said})")


def _untrusted(peer: Peer, proxy: Proxy | None, error: ssl.SSLCertVerificationError) -> ConfigError:
    reason = excerpt(error.verify_message or str(error), _MAX_WORDS)
    cloud, through = peer.cloud, f", through the proxy {proxy}" if proxy else ""
    steps = [
        "if your network inspects TLS, trust its authority: export SSL_CERT_FILE=/path/to/its/certificates.pem",
        "if it does not, somebody stands between you and it: use another network",
    ]
    if is_about_time(reason):
        connect = partial(open_connection, peer.network, peer.host, (peer.host, peer.port), _CLOCK_SECONDS)
        peer.clock.ask(connect, peer.host, _CLOCK_SECONDS)
        if peer.clock.is_wrong:
            return ConfigError(
                f"This machine's clock is {peer.clock.described(cloud)}, by which the certificate that answers for"
                f" {cloud}{through} is not trusted: {reason}. No token was sent to it.",
                next_steps=["compare it with another clock: date -u", SET_IT],
            )
        steps.insert(0, "see whether this machine's clock is right: date -u")
    return ConfigError(
        f"The certificate that answers for {cloud}{through} is not trusted: {reason}. Nothing was sent to it.",
        next_steps=steps,
    )


def is_about_time(reason: str) -> bool:
    """Return whether a certificate is refused for the time that it is by this machine's clock."""
    return "expired" in reason or "not yet valid" in reason


def _status(error: BaseException) -> int | None:
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it was made of, as the libraries wrap them."""
    seen: set[int] = set()
    left: list[object] = [error]
    while left:
        one = left.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            left += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
