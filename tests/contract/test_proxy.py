"""Both APIs, the edge and a bundle's manifest through a company's proxy, as the environment names it."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp

from clawdet_cli.adapters import retry
from clawdet_cli.adapters.cloudflare import Cloudflare
from clawdet_cli.adapters.edge import Visitor
from clawdet_cli.adapters.hetzner import Hetzner
from clawdet_cli.adapters.proxy import open_connection
from clawdet_cli.bundle import fetch
from clawdet_cli.errors import ClawdetError, CloudError, ConfigError, GuestError
from clawdet_cli.model import Deadline
from clawdet_cli.network import Network, from_environment
from clawdet_cli.sandbox.authority import Authority
from clawdet_cli.sandbox.cloudflare.api import cloudflare_app
from clawdet_cli.sandbox.faults import Faults
from clawdet_cli.secret import Secret
from tests.contract.company_proxy import CompanyProxy
from tests.contract.hetzner_emulator import TOKEN, Emulator
from tests.contract.served import Served

HETZNER, CLOUDFLARE, EDGE = "api.hetzner.cloud", "api.cloudflare.com", "alice.clawdet.test"
PASSWORD = "correct-horse"  # of nothing
Client = Hetzner | Cloudflare
CLOUDS = pytest.mark.parametrize("cloud", [HETZNER, CLOUDFLARE])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "company", "Company CA")


@pytest.fixture
def proxy(
    hetzner: Emulator, serve_app: Callable[[ASGIApp], Served], tmp_path: Path, authority: Authority
) -> Iterator[CompanyProxy]:
    """Run a proxy behind which both emulated APIs are, at the vendors' names and with TLS."""
    cloudflare = cloudflare_app(
        {},
        Authority(tmp_path / "ca", "Origin CA"),
        zone="clawdet.test",
        edge_cidrs=["127.17.0.0/24"],
        tokens=[TOKEN],
        on_change=lambda: None,
        faults=Faults(),
    )
    places = {f"{HETZNER}:443": hetzner.url, f"{CLOUDFLARE}:443": serve_app(cloudflare).url}
    with CompanyProxy({name: ("127.0.0.1", int(url.rpartition(":")[2])) for name, url in places.items()}) as made:
        made.inspect(authority, tmp_path, HETZNER, CLOUDFLARE, EDGE)
        yield made


@pytest.fixture
def ask(proxy: CompanyProxy, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what makes one call to a cloud with the environment that is given."""

    def call(cloud: str, *, trusting: bool = True, **environment: str) -> None:
        monkeypatch.setattr(retry, "FIRST_PATIENCE", 0.2)
        given = {"HTTPS_PROXY": proxy.url, **environment}
        if trusting:
            given.setdefault("SSL_CERT_FILE", str(authority.ca_path))
        options: dict[str, Any] = {"network": from_environment(given)}
        client: Client
        if cloud == HETZNER:
            client = Hetzner(f"https://{HETZNER}/v1", Secret(TOKEN), Deadline.after(3), **options)
            read: Callable[[], object] = client.all_servers
        else:
            client = Cloudflare(f"https://{CLOUDFLARE}/client/v4", Secret(TOKEN), Deadline.after(3), **options)
            read = client.edge_ranges
        try:
            read()
        finally:
            client.close()

    return call


@CLOUDS
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_both_apis_are_reached_through_it(
    cloud: str, variable: str, ask: Callable[..., None], proxy: CompanyProxy
) -> None:
    ask(cloud, **{"HTTPS_PROXY": "", variable: proxy.url})
    assert proxy.asked == [f"CONNECT {cloud}:443"]


@CLOUDS
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_whom_it_signs_for_is_trusted_where_the_environment_says_so(
    cloud: str, variable: str, ask: Callable[..., None], authority: Authority
) -> None:
    ask(cloud, trusting=False, **{variable: str(authority.ca_path)})


@CLOUDS
def test_whom_it_signs_for_is_not_trusted_otherwise(cloud: str, ask: Callable[..., None], proxy: CompanyProxy) -> None:
    with pytest.raises(ConfigError, match="is not trusted") as caught:
        ask(cloud, trusting=False)
    assert "SSL_CERT_FILE" in caught.value.next_steps[0]
    assert len(proxy.asked) == 1, "it was asked again, in vain"


@CLOUDS
def test_it_is_given_the_password_and_nobody_else_sees_it(
    cloud: str, ask: Callable[..., None], proxy: CompanyProxy
) -> None:
    proxy.credentials = f"somebody:{PASSWORD}"
    ask(cloud, HTTPS_PROXY=f"http://somebody:{PASSWORD}@127.0.0.1:{proxy.port}")
    with pytest.raises(ConfigError, match=r"\(407\)") as caught:
        ask(cloud, HTTPS_PROXY=f"http://somebody:{PASSWORD}-not@127.0.0.1:{proxy.port}")
    assert f"http://somebody:***@127.0.0.1:{proxy.port} (HTTPS_PROXY)" in caught.value.what
    assert PASSWORD not in everything_of(caught.value)


@CLOUDS
def test_a_refusal_is_told_at_once_with_what_to_allow(
    cloud: str, ask: Callable[..., None], proxy: CompanyProxy
) -> None:
    proxy.refused[f"{cloud}:443"] = 403
    with pytest.raises(ConfigError, match=r"refuses to connect to .* \(403\)") as caught:
        ask(cloud)
    assert any(f"NO_PROXY={cloud}" in step for step in caught.value.next_steps)
    assert len(proxy.asked) == 1


@CLOUDS
def test_one_that_cannot_reach_it_is_asked_again_and_named(
    cloud: str, ask: Callable[..., None], proxy: CompanyProxy
) -> None:
    del proxy.places[f"{cloud}:443"]
    with pytest.raises(ClawdetError) as caught:
        ask(cloud)
    assert "through the proxy" in everything_of(caught.value)
    assert "502" in everything_of(caught.value)
    assert len(proxy.asked) > 1


@CLOUDS
def test_one_that_is_not_there_is_named(cloud: str, ask: Callable[..., None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ClawdetError) as caught:
        ask(cloud, HTTPS_PROXY=f"http://127.0.0.1:{port}")
    assert f"through the proxy http://127.0.0.1:{port} (HTTPS_PROXY)" in everything_of(caught.value)


@CLOUDS
def test_a_host_that_is_excepted_is_asked_without_it(cloud: str, ask: Callable[..., None], proxy: CompanyProxy) -> None:
    with pytest.raises((CloudError, ClawdetError)):
        ask(cloud, NO_PROXY=f"example.org,{cloud}")  # there is no name server in a test, so it goes nowhere
    assert proxy.asked == []


def test_loopback_never_goes_through_it(hetzner: Emulator, proxy: CompanyProxy) -> None:
    client = Hetzner(
        f"{hetzner.url}/v1", Secret(TOKEN), Deadline.after(5), network=Network(proxy=proxy.url, proxy_variable="X")
    )
    assert client.all_servers() == []
    client.close()
    assert proxy.asked == []


def everything_of(error: ClawdetError) -> str:
    return " ".join([error.what, *error.details, *error.next_steps])


class TestEdge:
    """Visits of the public name."""

    ADDRESS = ("192.0.2.1", 443)

    @pytest.fixture
    def visit(self, proxy: CompanyProxy, authority: Authority, hetzner: Emulator) -> Callable[[], int]:
        proxy.places["192.0.2.1:443"] = ("127.0.0.1", int(hetzner.url.rpartition(":")[2]))
        proxy.places[f"{EDGE}:443"] = proxy.places["192.0.2.1:443"]
        proxy.inspecting["192.0.2.1"] = proxy.inspecting[EDGE]
        network = from_environment({"HTTPS_PROXY": f"http://somebody:{PASSWORD}@127.0.0.1:{proxy.port}"})

        def get() -> int:
            visitor = Visitor(
                EDGE, lambda: open_connection(network, EDGE, self.ADDRESS, 5), authority.ca_path, timeout=5
            )
            return visitor.get("/v1/nothing").status

        return get

    def test_the_address_is_asked_for_that_the_zones_own_name_servers_gave(
        self, visit: Callable[[], int], proxy: CompanyProxy
    ) -> None:
        proxy.credentials = f"somebody:{PASSWORD}"
        assert visit() == 404
        assert proxy.asked == ["CONNECT 192.0.2.1:443"]

    def test_a_proxy_that_allows_names_alone_is_given_the_name(
        self, visit: Callable[[], int], proxy: CompanyProxy
    ) -> None:
        proxy.refused["192.0.2.1:443"] = 403
        assert visit() == 404
        assert proxy.asked == ["CONNECT 192.0.2.1:443", f"CONNECT {EDGE}:443"]

    def test_a_refusal_names_the_proxy_without_the_password(
        self, visit: Callable[[], int], proxy: CompanyProxy
    ) -> None:
        proxy.credentials = "another:password"
        with pytest.raises(GuestError) as caught:
            visit()
        said = everything_of(caught.value)
        assert f"the proxy http://somebody:***@127.0.0.1:{proxy.port} (HTTPS_PROXY) refuses to connect" in said
        assert "(407)" in said
        assert PASSWORD not in said

    def test_a_silent_proxy_is_waited_for_no_longer_than_was_asked(self, proxy: CompanyProxy) -> None:
        proxy.silent = True
        network = Network(proxy=proxy.url, proxy_variable="HTTPS_PROXY")
        with pytest.raises(OSError, match="no answer from the proxy"):
            open_connection(network, EDGE, self.ADDRESS, 0.2)


class TestManifest:
    def test_it_is_read_through_it(self, proxy: CompanyProxy, authority: Authority) -> None:
        network = from_environment({"HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": str(authority.ca_path)})
        with pytest.raises(ConfigError, match="Not Found"):
            fetch.text(Secret(f"https://{HETZNER}/bundle.json"), network)
        assert proxy.asked == [f"CONNECT {HETZNER}:443"]
