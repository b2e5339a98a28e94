"""Gets files over HTTPS, as the network has it, and bounded."""

import base64
import hashlib
import http.client
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from clawdet_cli.bundle.manifest import MOST_MANIFEST
from clawdet_cli.errors import ConfigError
from clawdet_cli.network import DIRECT, Network
from clawdet_cli.secret import Secret

SECONDS = 30.0
"""Between two pieces."""
FILE_SECONDS = 1800.0
"""For a whole file."""

# ValueError: a host name that none can be (UnicodeError), which urllib passes on.
_FAILURES = (OSError, http.client.HTTPException, ValueError)


class _ProxyHandler(urllib.request.BaseHandler):
    """Sends each request, also one that a redirection leads to, through the proxy that leads to its host."""

    handler_order = 100  # before those that connect

    def __init__(self, network: Network) -> None:
        self._network = network

    def https_request(self, request: urllib.request.Request) -> urllib.request.Request:
        proxy = self._network.proxy_for(urllib.parse.urlsplit(request.full_url).hostname or "")
        if proxy is not None:
            for name, value in proxy.authorization.items():
                request.add_unredirected_header(name, value)
            request.set_proxy(f"{proxy.host}:{proxy.port}", "https")
        return request


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Goes where a redirection leads on the same host, with the same user, and nowhere else."""

    def redirect_request(self, req: urllib.request.Request, *arguments: Any) -> urllib.request.Request | None:
        """Return the next request. Raises URLError for another host."""
        new_url: str = arguments[-1]
        if urllib.parse.urlsplit(new_url)[:2] != urllib.parse.urlsplit(req.full_url)[:2]:
            arguments[0].close()
            raise urllib.error.URLError("it leads to another host, and what a VPS is to trust must not come from there")
        request = super().redirect_request(req, *arguments)
        if request is not None and (given := req.unredirected_hdrs.get("Authorization")):
            request.add_unredirected_header("Authorization", given)
        return request


def _opener(
    network: Network, redirects: urllib.request.HTTPRedirectHandler | None = None
) -> urllib.request.OpenerDirector:
    """Make one that knows no plain HTTP, so that no redirection leads there."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        _ProxyHandler(network),
        urllib.request.HTTPSHandler(context=network.trust()),
        redirects or urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _request(address: str) -> urllib.request.Request:
    """Return the request for an address. User and password go into a header: urllib takes them for part of a port."""
    parts = urllib.parse.urlsplit(address)
    userinfo, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)))  # noqa: S310 - no other scheme is known to the opener
    if at:
        user, _, password = userinfo.partition(":")
        given = f"{urllib.parse.unquote(user)}:{urllib.parse.unquote(password)}"
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(given.encode()).decode())
    return request


def text(url: Secret, network: Network = DIRECT) -> str:
    """Return a small text that comes from the address's own host. Raises ConfigError.

    Each piece has a time-out, and they may be many: whoever asks bounds the whole.
    """
    try:
        with _opener(network, _SameHost()).open(_request(url.reveal()), timeout=SECONDS) as answer:
            content: bytes = answer.read(MOST_MANIFEST + 1)
    except _FAILURES as error:
        raise _cannot(shown(url), error) from None
    return content.decode("utf-8", "replace")


def file(url: str, target: Path, digests: dict[str, str], network: Network = DIRECT) -> None:
    """Get a file and compare it with its digests by hashlib's names. Raises ConfigError, and the file is gone then."""
    try:
        if url.startswith("file://"):
            shutil.copyfile(urllib.request.url2pathname(urllib.parse.urlsplit(url).path), target)
        else:
            # Wherever a redirection leads: the digests decide.
            with _opener(network).open(url, timeout=SECONDS) as answer, target.open("wb") as into:
                _copy(answer, into)
    except _FAILURES as error:
        target.unlink(missing_ok=True)
        raise _cannot(_shown(url), error) from None
    if not digests:
        raise ValueError("a download without a digest")
    for kind, expected in digests.items():
        with target.open("rb") as content:
            found = hashlib.file_digest(content, kind).hexdigest()
        if found != expected:
            target.unlink()
            raise ConfigError(
                f"{_shown(url)} has the wrong digest: {kind} {found[:16]}…, expected {expected[:16]}….",
                next_steps=["try again; if it stays so, do not trust where it comes from"],
            )


def _copy(answer: Any, into: Any) -> None:
    """Copy an answer as it comes. Raises TimeoutError for one that takes too long in all."""
    end = time.monotonic() + FILE_SECONDS
    for piece in iter(lambda: answer.read1(1 << 20), b""):
        into.write(piece)
        if time.monotonic() > end:
            raise TimeoutError(f"it did not come within {FILE_SECONDS:.0f} s")


def _cannot(what: str, error: Exception) -> ConfigError:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return ConfigError(
        f"{what} cannot be downloaded: {reason}.",
        next_steps=["see whether this machine reaches it, and try again"],
    )


def shown(address: Secret) -> str:
    """Return an address for a message, without its password or the query of a signed one."""
    return _shown(address.reveal())


def _shown(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
