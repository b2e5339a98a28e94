import dataclasses
import re
from datetime import datetime, timedelta

import pytest

from clawdet_cli.errors import UsageError
from clawdet_cli.model import RESERVED_USERS, USER_RULE, Deadline, HostKey, Instance, ServerOrder, Status, checked_user
from clawdet_cli.model import now_text as now
from clawdet_cli.secret import Secret

LONGEST = "a" * 40


@pytest.mark.parametrize("name", ["a", "7", "alice", "a-b", "a--b", "alice-2", "0day", "xn-a", "wwww", LONGEST])
def test_a_host_name_label_can_be_a_user_name(name: str) -> None:
    assert checked_user(name) == name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param("Alice", id="upper case"),
        pytest.param("a_b", id="underscore"),
        pytest.param("a.b", id="dot"),
        pytest.param("alice.", id="final dot"),
        pytest.param("-alice", id="leading hyphen"),
        pytest.param("alice-", id="trailing hyphen"),
        pytest.param("-", id="only a hyphen"),
        pytest.param(LONGEST + "a", id="41 characters"),
        pytest.param("älice", id="umlaut"),
        pytest.param("\N{CYRILLIC SMALL LETTER A}lice", id="looks like a"),
        pytest.param("alice\N{SUPERSCRIPT TWO}", id="digit of another script"),
        pytest.param("xn--lice-koa", id="punycode"),
        pytest.param("alice\n", id="newline at the end"),
        pytest.param("al ice", id="blank"),
        pytest.param("a/../b", id="path"),
        pytest.param("$(id)", id="shell"),
        pytest.param("www", id="reserved: web"),
        pytest.param("mail", id="reserved: mail"),
        pytest.param("api", id="reserved: api"),
        pytest.param("autodiscover", id="reserved: mail clients"),
        pytest.param("ns1", id="reserved: name server"),
    ],
)
def test_any_other_user_name_is_refused_with_the_rule_in_one_line(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked_user(name)
    assert USER_RULE in caught.value.what
    assert repr(name) in caught.value.what
    assert "\n" not in caught.value.what
    assert caught.value.next_steps


def test_reserved_names_are_such_as_would_pass_otherwise() -> None:
    assert all(re.fullmatch(r"[a-z0-9-]{1,40}", name) for name in RESERVED_USERS)


def instance(user: str = "alice") -> Instance:
    return Instance(user, "example.com", "abcdef012345", Status.PENDING, False, now(), now())


def test_an_instances_names_follow_from_user_and_run() -> None:
    made = instance()
    assert made.host == "alice.example.com"
    assert made.server_name == "clawdet-alice"
    assert made.comment == "clawdet:alice:abcdef012345"
    assert made.labels == {"managed-by": "clawdet", "user": "alice", "run": "abcdef012345"}


def test_the_longest_user_name_still_fits_what_the_clouds_allow() -> None:
    made = instance(LONGEST)
    assert len(made.comment) <= 100  # a DNS comment of a free zone
    assert len(made.server_name) <= 63  # a host name label
    assert all(len(value) <= 63 for value in made.labels.values())


def test_the_status_words_are_those_that_scripts_know() -> None:
    assert [str(status) for status in Status] == [
        "pending",
        "creating_vps",
        "configuring_dns",
        "installing",
        "complete",
        "failed",
        "destroying",
        "destroyed",
    ]


def test_values_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        instance().user = "bob"  # type: ignore[misc]  # that it is refused is the test


def test_private_parts_are_not_printed() -> None:
    private, data = "PRIVATE KEY of the host", "#cloud-config with the host key"
    assert private not in repr(HostKey(Secret(private), "ssh-ed25519 AAAA"))
    assert data not in repr(ServerOrder("n", "cpx22", "nbg1", "ubuntu-24.04", 1, Secret(data), {}))


def test_times_are_utc_with_milliseconds() -> None:
    moment = now()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", moment)
    assert datetime.fromisoformat(moment).utcoffset() == timedelta(0)


def test_a_deadline_never_has_less_than_nothing_left() -> None:
    assert Deadline.after(-5).left() == 0.0
    assert 59 < Deadline.after(60).left() <= 60


def test_a_part_of_a_deadline_ends_with_the_whole_at_the_latest() -> None:
    whole = Deadline.after(60)
    assert whole.within(600) == whole
    assert 0 < whole.within(5).left() <= 5
