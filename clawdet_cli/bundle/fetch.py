"""Gets files over HTTPS, as the network has it, and bounded."""

import hashlib
import http.client
import shutil
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from clawdet_cli.bundle.manifest import MOST_MANIFEST
from clawdet_cli.errors import ConfigError
from clawdet_cli.network import DIRECT, Network

SECONDS = 30.0
"""Between two pieces."""


_FAILURES = (OSError, http.client.HTTPException)


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


def _opener(network: Network) -> urllib.request.OpenerDirector:
    """Make one that knows no plain HTTP, so that no redirection leads there."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        _ProxyHandler(network),
        urllib.request.HTTPSHandler(context=network.trust()),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def text(url: str, network: Network = DIRECT) -> str:
    """Give a small text. Raises ConfigError."""
    try:
        with _opener(network).open(url, timeout=SECONDS) as answer:
            content: bytes = answer.read(MOST_MANIFEST + 1)
    except _FAILURES as error:
        raise _cannot(url, error) from None
    return content.decode("utf-8", "replace")


def file(url: str, target: Path, digests: dict[str, str], network: Network = DIRECT) -> None:
    """Get a file and compare it with its digests by hashlib's names. Raises ConfigError, and the file is gone then."""
    try:
        if url.startswith("file://"):
            shutil.copyfile(urllib.request.url2pathname(urllib.parse.urlsplit(url).path), target)
        else:
            with _opener(network).open(url, timeout=SECONDS) as answer, target.open("wb") as into:
                shutil.copyfileobj(answer, into, 1 << 20)
    except _FAILURES as error:
        target.unlink(missing_ok=True)
        raise _cannot(url, error) from None
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


def _cannot(url: str, error: Exception) -> ConfigError:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return ConfigError(
        f"{_shown(url)} cannot be downloaded: {reason}.",
        next_steps=["see whether this machine reaches it, and try again"],
    )


def _shown(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
