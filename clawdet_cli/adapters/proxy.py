"""Connections through the proxy of this network, and what it means when one does not come about."""

import http.client
import re
import socket
import ssl
from collections.abc import Iterator

from clawdet_cli.adapters.retry import Lost
from clawdet_cli.errors import ConfigError
from clawdet_cli.network import Network, Proxy, is_loopback
from clawdet_cli.secret import excerpt

_STATUS = re.compile(r"(?:^|Tunnel connection failed: )([345]\d\d)\b")
"""As httpcore says what a proxy answered, and as http.client does, which urllib3 uses."""
_MAX_WORDS = 200


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


def unreached(cloud: str, host: str, proxy: Proxy | None, error: BaseException) -> ConfigError | Lost:
    """Return what a request means that got no answer: a ConfigError where to ask again would not help."""
    chain = list(_causes(error))
    untrusted = next((one for one in chain if isinstance(one, ssl.SSLCertVerificationError)), None)
    if untrusted is not None:
        return _untrusted(cloud, proxy, untrusted)
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


def _untrusted(cloud: str, proxy: Proxy | None, error: ssl.SSLCertVerificationError) -> ConfigError:
    reason = excerpt(error.verify_message or str(error), _MAX_WORDS)
    through = f", through the proxy {proxy}" if proxy else ""
    steps = [
        "if your network inspects TLS, trust its authority: export SSL_CERT_FILE=/path/to/its/certificates.pem",
        "if it does not, somebody stands between you and it: use another network",
    ]
    if "expired" in reason or "not yet valid" in reason:
        steps.insert(0, "see whether this machine's clock is right: date -u")
    return ConfigError(
        f"The certificate that answers for {cloud}{through} is not trusted: {reason}. Nothing was sent to it.",
        next_steps=steps,
    )


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
