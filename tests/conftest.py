"""What holds for every test: no way to a real cloud, and nothing of the developer's own configuration."""

import ipaddress
import socket
from typing import Any

import pytest

from clawdet_cli import secret

_connect = socket.socket.connect


def _loopback_only(self: socket.socket, address: Any) -> None:
    if self.family in {socket.AF_INET, socket.AF_INET6} and not ipaddress.ip_address(address[0]).is_loopback:
        raise AssertionError(f"a test tried to connect to {address}: only loopback is allowed")
    _connect(self, address)


LONGEST = [
    f"test_{name}.py"
    for name in ("ubuntu_like", "kill", "accidents", "provision", "hot_gateway", "daily_use", "bundle", "transcript")
]
"""Files that take minutes each: they begin first, so that no worker is left with one of them in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest; the rest stays in its order."""
    last = len(LONGEST)
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else last)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have told by the property `told`, as the seed of what was random in them."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    for told in dict.fromkeys(text for one in reports for name, text in one.user_properties if name == "told"):
        terminalreporter.write_line(str(told))


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Make a call to a real cloud impossible, and the developer's tokens and files invisible."""
    monkeypatch.setattr(socket.socket, "connect", _loopback_only)
    for name in (
        "HCLOUD_TOKEN",
        "CLOUDFLARE_API_TOKEN",
        "CLOUDFLARE_EMAIL",
        "CLOUDFLARE_API_KEY",
        "CLAWDET_ZONE",
        "ANTHROPIC_API_KEY",
        "OPENAI_API_KEY",
        "XAI_API_KEY",
        "OPENROUTER_API_KEY",
        *("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CLAWDET_SSH_PROXY"),
    ):
        monkeypatch.delenv(name, raising=False)
    # What one test calls a secret may be another's plain text.
    monkeypatch.setattr(secret, "_known", {})
    monkeypatch.setattr(secret, "_pieces", set())
    own = tmp_path_factory.mktemp("isolated")
    monkeypatch.setenv("CLAWDET_STATE", str(own / "state"))
    (own / "empty.toml").touch()
    monkeypatch.setenv("CLAWDET_CONFIG", str(own / "empty.toml"))
