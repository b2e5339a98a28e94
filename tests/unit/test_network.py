"""Which proxy leads to which host, and whom a connection trusts."""

from pathlib import Path

import pytest

from clawdet_cli import secret
from clawdet_cli.errors import ConfigError
from clawdet_cli.network import Network, from_environment

HOST = "api.hetzner.cloud"


def through(host: str = HOST, **environment: str) -> str:
    return str(from_environment(environment).proxy_for(host) or "direct")


@pytest.mark.parametrize(
    ("environment", "way"),
    [
        ({}, "direct"),
        ({"HTTP_PROXY": "http://p:1"}, "direct"),
        ({"HTTPS_PROXY": "http://p:3128"}, "http://p:3128 (HTTPS_PROXY)"),
        ({"HTTPS_PROXY": "p:3128"}, "http://p:3128 (HTTPS_PROXY)"),
        ({"HTTPS_PROXY": " http://p "}, "http://p:80 (HTTPS_PROXY)"),
        ({"HTTPS_PROXY": "http://[2001:db8::1]:3128"}, "http://[2001:db8::1]:3128 (HTTPS_PROXY)"),
        ({"HTTPS_PROXY": "http://u@p:1"}, "http://u:***@p:1 (HTTPS_PROXY)"),
        ({"HTTPS_PROXY": "http://upper:1", "https_proxy": "http://lower:1"}, "http://lower:1 (https_proxy)"),
        ({"ALL_PROXY": "http://all:1", "HTTPS_PROXY": "http://p:1"}, "http://p:1 (HTTPS_PROXY)"),
        ({"all_proxy": "http://all:1"}, "http://all:1 (all_proxy)"),
        ({"HTTPS_PROXY": ""}, "direct"),
    ],
)
def test_the_proxy_is_the_one_that_curl_would_take(environment: dict[str, str], way: str) -> None:
    assert through(**environment) == way


@pytest.mark.parametrize(
    ("host", "no_proxy", "excepted"),
    [
        (HOST, "*", True),
        (HOST, HOST, True),
        (HOST, f"{HOST}:443", True),
        (HOST, "hetzner.cloud", True),
        (HOST, ".hetzner.cloud", True),
        (HOST, "*.hetzner.cloud", True),
        (HOST, "example.org, .HETZNER.cloud", True),
        (HOST, "example.org .hetzner.cloud", True),
        ("API.Hetzner.Cloud.", "hetzner.cloud", True),
        (HOST, "nothetzner.cloud", False),
        ("evilhetzner.cloud", "hetzner.cloud", False),
        (HOST, "api", False),
        (HOST, ",,", False),
        ("192.0.2.7", "192.0.2.0/24", True),
        ("192.0.2.7", "192.0.2.7", True),
        ("198.51.100.1", "192.0.2.0/24", False),
        ("2001:db8::1", "2001:db8::/32", True),
        ("localhost", "", True),
        ("127.17.0.1", "", True),
        ("::1", "", True),
    ],
)
def test_what_is_excepted_is_asked_directly_and_loopback_always(host: str, no_proxy: str, excepted: bool) -> None:
    assert (through(host, HTTPS_PROXY="http://p:1", NO_PROXY=no_proxy) == "direct") is excepted


@pytest.mark.parametrize(
    "proxy",
    [
        "socks5://user:correct-horse@p:1080",
        "https://user:correct-horse@p:443",
        "http://",
        "http://user:correct-horse@p:port",
        "http://user:correct-horse@:3128",
        "http://[user:correct-horse@p:1",
    ],
)
def test_one_of_another_kind_is_refused_where_it_would_be_used(proxy: str) -> None:
    network = from_environment({"ALL_PROXY": proxy})
    assert network.proxy_for("127.0.0.1") is None
    with pytest.raises(ConfigError, match="ALL_PROXY") as caught:
        network.proxy_for(HOST)
    assert "correct-horse" not in caught.value.what + " ".join(caught.value.next_steps)


def test_the_password_is_written_nowhere() -> None:
    network = from_environment({"HTTPS_PROXY": "http://user:correct%20horse@p:3128"})
    proxy = network.proxy_for(HOST)
    assert proxy is not None
    assert "horse" not in f"{proxy} {proxy!r} {secret.hide(proxy.url)} {secret.hide(str(proxy.authorization))}"
    assert "correct" not in secret.hide("said: correct horse")


def test_whom_to_trust_is_the_most_particular_variable_that_is_set(tmp_path: Path) -> None:
    environment = {"SSL_CERT_DIR": "/a", "SSL_CERT_FILE": "/b", "REQUESTS_CA_BUNDLE": "/c"}
    assert from_environment(environment).ca == Path("/c")
    assert from_environment({"SSL_CERT_DIR": str(tmp_path)}).trust() is not None
    assert Network().trust() is None


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("nothing")
    for path in (wrong, tmp_path / "missing"):
        with pytest.raises(ConfigError, match="SSL_CERT_FILE") as caught:
            from_environment({"SSL_CERT_FILE": str(path)}).trust()
        assert str(path) in caught.value.what
