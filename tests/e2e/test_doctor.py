"""`clawdet doctor`: each right of both tokens is named, and nothing is changed by finding out."""

from collections.abc import Iterator
from typing import Any

import pytest

from clawdet_cli.adapters import Clouds
from clawdet_cli.adapters.cloudflare import Cloudflare
from clawdet_cli.adapters.hetzner import Hetzner
from clawdet_cli.model import Deadline, Verdict
from clawdet_cli.secret import Secret
from clawdet_cli.stages import doctor
from tests.e2e.operator import Operator, Said

NEEDED = ["zone:read", "dns:edit", "ssl:edit", "settings:read"]


@pytest.fixture
def owner(operator: Operator) -> Iterator[Operator]:
    """Somebody whose tokens may be changed; they are as before afterwards."""
    yield operator
    grant(operator, NEEDED, None)


def grant(operator: Operator, rights: list[str], zones: list[str] | None) -> None:
    """Make the sandbox's Cloudflare token anew, with these rights in these zones."""
    body: dict[str, Any] = {"token": operator.info()["cloudflare_token"], "rights": rights, "zones": zones}
    operator.control("cloudflare", "POST", "tokens", body)


def grant_here(operator: Operator, *rights: str) -> None:
    grant(operator, list(rights), [operator.info()["zone"]])


def ask(operator: Operator, *flags: str) -> Said:
    return operator.clawdet("doctor", "--sandbox", *flags)


def verdicts(said: Said) -> dict[str, str]:
    return {row["right"]: row["verdict"] for row in said.document["doctor"]["rights"]}


def test_tokens_with_what_is_needed_and_no_more_are_fine(owner: Operator) -> None:
    grant_here(owner, *NEEDED)
    said = ask(owner)
    assert said.code == 0, said.err
    assert "Both tokens have what clawdet needs, and nothing more that could be found out." in said.out
    assert set(verdicts(ask(owner, "--json")).values()) == {"has"}


def test_nothing_is_changed_by_finding_out(owner: Operator) -> None:
    grant_here(owner, *NEEDED, "settings:edit", "tokens:read")
    owner.control("cloudflare", "PATCH", f"zones/{owner.info()['zone']}", {"ssl": "full"})
    before = state(owner)
    assert ask(owner).code == 3  # for the SSL mode
    assert state(owner) == before


def state(owner: Operator) -> Any:
    settings = owner.cloud("cloudflare", f"/zones/{owner.zone_id()}/settings/ssl")["result"]
    kept = owner.cloud("hetzner", "/ssh_keys")["ssh_keys"], owner.cloud("hetzner", "/firewalls")["firewalls"]
    return owner.holdings(), kept, settings, owner.certificates()


@pytest.mark.parametrize(
    ("missing", "right"),
    [("zone:read", "Zone Read"), ("dns:edit", "DNS Edit"), ("ssl:edit", "SSL and Certificates Edit")],
)
def test_a_right_that_is_lacking_is_named(owner: Operator, missing: str, right: str) -> None:
    grant_here(owner, *(name for name in NEEDED if name != missing))
    said = ask(owner, "--json")
    assert said.code == 3
    assert not said.document["doctor"]["ok"]
    assert [name for name, verdict in verdicts(said).items() if verdict == "lacks"] == [right]
    assert f"lacks        {right}" in ask(owner).out


def test_reading_records_is_not_editing_them(owner: Operator) -> None:
    grant_here(owner, "zone:read", "dns:read", "ssl:edit", "settings:read")
    assert verdicts(ask(owner, "--json"))["DNS Edit"] == "lacks"


def test_without_the_optional_right_it_works_and_says_what_is_not_checked(owner: Operator) -> None:
    grant_here(owner, "zone:read", "dns:edit", "ssl:edit")
    said = ask(owner)
    assert said.code == 0
    assert "goes without Zone Settings Read" in said.out
    assert "the zone's settings are not checked" in said.out


def test_what_a_token_has_too_much_of_is_named(owner: Operator) -> None:
    zone = owner.info()["zone"]
    others = [row["name"] for row in owner.cloud("cloudflare", "/zones")["result"] if row["name"] != zone]
    grant(owner, [*NEEDED, "settings:edit", "tokens:read"], [zone, *others])
    said = ask(owner, "--json")
    assert said.code == 0
    found = verdicts(said)
    assert [name for name, verdict in found.items() if verdict == "too much"] == [
        "Zone Settings Edit",
        "API Tokens Read",
        "other zones",
    ]
    assert f"it reaches {', '.join(others)}: clawdet needs {zone} alone" in ask(owner).out
    assert "A better CLOUDFLARE_API_TOKEN: make one at" in ask(owner).out


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        ("DELETE", "dns_records/.*", "DNS Edit"),
        ("POST", "certificates", "SSL and Certificates Edit"),
        ("GET", "settings/ssl", "Zone Settings Read"),
        ("GET", "user/tokens", "API Tokens Read"),
    ],
)
@pytest.mark.parametrize(
    "answer",
    [
        {"status": 200, "body": "<html>Welcome to the airport</html>"},
        {"status": 404, "body": "<html>Not found</html>"},
        {"status": 403, "body": "<html>Not from here</html>"},
        {"status": 200, "body": {"success": False, "errors": [], "result": None}},
    ],
    ids=["page", "no page", "forbidden page", "nothing"],
)
def test_an_answer_that_does_not_tell_is_called_unknown(
    owner: Operator, method: str, path: str, right: str, answer: dict[str, Any]
) -> None:
    grant_here(owner, *NEEDED)
    fault = {"kind": "answer", "method": method, "path": f"/client/v4/.*{path}", "times": None, **answer}
    owner.control("cloudflare", "POST", "faults", fault)
    said = ask(owner, "--json")
    assert said.code == 7, said.out
    assert not said.document["doctor"]["ok"]
    assert [name for name, verdict in verdicts(said).items() if verdict != "has"] == [right]
    assert verdicts(said)[right] == "unknown"
    assert "Both tokens have" not in ask(owner).out


def judged(owner: Operator, hetzner_token: str) -> dict[str, Verdict]:
    """Judge another token of Hetzner's beside the sandbox's Cloudflare token."""
    info, soon = owner.info(), Deadline.after(60)
    clouds = Clouds(
        Hetzner(info["hetzner_url"], Secret(hetzner_token), soon),
        Cloudflare(info["cloudflare_url"], Secret(info["cloudflare_token"]), soon),
    )
    try:
        return {right.name: right.verdict for right in doctor.rights(clouds, info["zone"])}
    finally:
        clouds.close()


def test_a_token_of_hetzner_that_may_only_read_lacks_writing(owner: Operator) -> None:
    found = judged(owner, owner.info()["hetzner_read_token"])
    assert (found["Read"], found["Write"]) == (Verdict.HAS, Verdict.LACKS)


def test_one_token_that_is_refused_does_not_hide_the_other(owner: Operator) -> None:
    found = judged(owner, "x" * 64)
    assert (found["Read"], found["DNS Edit"]) == (Verdict.LACKS, Verdict.HAS)


def test_servers_that_are_not_clawdets_are_within_the_tokens_reach(owner: Operator) -> None:
    grant_here(owner, *NEEDED)
    order = {"name": "someone-elses", "server_type": "cpx22", "image": "ubuntu-24.04", "location": "nbg1"}
    server = owner.cloud("hetzner", "/servers", "POST", order)["server"]
    try:
        said = ask(owner)
        assert "too much     the whole project" in said.out
        assert "1 servers that are not clawdet's" in said.out
    finally:
        owner.cloud("hetzner", f"/servers/{server['id']}", "DELETE")


def test_the_sandboxs_own_tokens_are_judged_too(owner: Operator) -> None:
    said = ask(owner)
    assert (said.code, "Zone Read" in said.out) == (0, True)
