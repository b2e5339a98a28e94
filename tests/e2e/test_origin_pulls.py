"""Authenticated Origin Pulls: with --origin-pull-ca the VPS answers Cloudflare's own certificate alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.operator import Operator, Said

PROVISION = ("provision", "alice", "--sandbox", "--yes")


@pytest.fixture
def pulling(operator: Operator) -> Iterator[Operator]:
    """An operator in whose zone the edge shows its certificate."""
    switch(operator, "on")
    yield operator
    switch(operator, "off")


def switch(operator: Operator, value: str) -> None:
    operator.control("cloudflare", "PATCH", f"zones/{operator.info()['zone']}", {"tls_client_auth": value})


def provision(operator: Operator, ca: str | None = None) -> Said:
    return operator.clawdet(*PROVISION, *(("--origin-pull-ca", ca) if ca else ()))


def failing(operator: Operator) -> list[str]:
    said = operator.clawdet("verify", "alice", "--sandbox", "--json")
    return [check["name"] for check in said.document["instance"]["checks"] if not check["ok"]]


def test_the_edge_gets_in_and_whoever_shows_no_certificate_does_not(pulling: Operator) -> None:
    ca = pulling.info()["origin_pull_ca_file"]
    said = provision(pulling, ca)
    assert said.code == 0, said.err
    assert failing(pulling) == []
    switch(pulling, "off")  # now the edge is one of those who show none
    assert failing(pulling) == ["gateway", "landing_page"]


def test_it_stays_until_it_is_ended(pulling: Operator) -> None:
    assert provision(pulling, pulling.info()["origin_pull_ca_file"]).code == 0
    assert provision(pulling).code == 0
    switch(pulling, "off")
    assert failing(pulling) == ["gateway", "landing_page"]
    switch(pulling, "on")
    assert provision(pulling, "none").code == 0
    switch(pulling, "off")
    assert failing(pulling) == []


def test_a_complete_instance_takes_it_over(pulling: Operator) -> None:
    assert provision(pulling).code == 0
    assert provision(pulling, pulling.info()["origin_pull_ca_file"]).code == 0
    assert failing(pulling) == []
    switch(pulling, "off")
    assert failing(pulling) == ["gateway", "landing_page"]


def test_where_the_zone_shows_no_certificate_it_is_refused_before_anything_is_made(operator: Operator) -> None:
    said = provision(operator, operator.info()["origin_pull_ca_file"])
    assert said.code == 3
    assert "switch Authenticated Origin Pulls on" in said.err
    assert operator.holdings() == (0, 0, 0)


def test_a_complete_instance_is_not_locked_out(operator: Operator) -> None:
    assert provision(operator).code == 0
    said = provision(operator, operator.info()["origin_pull_ca_file"])
    assert (said.code, "switch Authenticated Origin Pulls on" in said.err) == (3, True)
    assert failing(operator) == []


def test_another_authority_lets_nobody_in_and_is_told(pulling: Operator) -> None:
    said = pulling.clawdet(*PROVISION, "--origin-pull-ca", pulling.info()["origin_ca_file"], "--timeout", "8")
    assert said.code == 6
    assert "gateway" in said.err
    assert provision(pulling, pulling.info()["origin_pull_ca_file"]).code == 0


@pytest.mark.parametrize(
    "content", [None, "", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_file_that_is_no_certificate_is_refused(operator: Operator, content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    said = provision(operator, str(file))
    assert said.code == 3
    assert f"--origin-pull-ca names {file}, which cannot be read as a certificate (PEM)" in said.err
    assert operator.holdings() == (0, 0, 0)
