"""Nothing is changed outside without the journal: read out of the code itself."""

import ast
import inspect
from pathlib import Path

import pytest

from clawdet_cli.adapters import cloudflare, hetzner
from clawdet_cli.archive import EFFECTS
from clawdet_cli.stages.recover import LOOKS
from tests.kill import boundaries

ON_THE_VPS = {"upload", "start", "join_boot"}
"""What of `bootstrap` is a command that changes the VPS; `installed` is one by its verb, and read separately."""


VERBS = {
    "certificate-request": "make_vps_key",
    "nonce": "put_nonce",
    "host-key": "make_host_key",
    "switch-host-key": "switch_host_key",
}
"""Verbs of the script that change the VPS, with the kind of effect that each is."""


def changing_methods() -> set[str]:
    """Give the adapters' methods that change a cloud: those that go through `_change`."""
    found = set()
    for module in (hetzner, cloudflare):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.FunctionDef) and "_change" in boundaries.called(node):
                found.add(node.name)
    return found


def test_the_journal_can_look_after_every_kind_of_effect_and_no_other() -> None:
    assert set(LOOKS) == boundaries.kinds()


def test_an_import_knows_every_kind_of_effect_and_no_other() -> None:
    assert set(EFFECTS) == boundaries.kinds()


def test_the_adapters_change_the_clouds_by_the_methods_that_are_known_here() -> None:
    assert changing_methods() == {
        *("add_ssh_key", "delete_ssh_key", "create_server", "label_server", "delete_server"),
        *("create_firewall", "set_firewall_rules", "attach_firewall", "delete_firewall"),
        *("create_a_record", "update_a_record", "delete_record", "sign", "revoke"),
    }


@pytest.mark.parametrize("method", sorted(changing_methods() | ON_THE_VPS))
def test_a_change_is_made_within_a_journalled_effect_only(method: str) -> None:
    # Bound to the object that it is called on: `run.clouds.cloudflare.revoke(...)`, `bootstrap.start(...)`.
    owners = {"bootstrap"} if method in ON_THE_VPS else {"cloudflare", "hetzner"}
    within = sum(method in place.within for place in boundaries.places())
    everywhere = sum(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == method
        and _last_name(node.func.value) in owners
        for path in boundaries.STAGES.rglob("*.py")
        if not {"sandbox", "adapters"} & set(path.relative_to(boundaries.STAGES).parts)
        for node in ast.walk(ast.parse(path.read_text()))
    )
    assert everywhere == within >= 1


MAKING = {"add_ssh_key", "create_server", "create_firewall", "create_a_record", "sign"}


def test_every_change_of_something_that_exists_says_what_so_that_its_owner_is_looked_at() -> None:
    changes = [place for place in boundaries.places() if (changing_methods() - MAKING) & set(place.within)]
    assert {place.kind for place in changes} == {
        *("delete_dns_record", "update_dns_record", "revoke_certificate", "label_server", "delete_server"),
        *("set_firewall_rules", "attach_firewall", "delete_firewall", "delete_ssh_key"),
    }
    assert [f"{place.file}:{place.line}: {place.kind}" for place in changes if "on" not in place.keywords] == []


@pytest.mark.parametrize("verb", list(VERBS))
def test_a_verb_that_changes_the_vps_is_used_once_and_within_an_effect(verb: str) -> None:
    used = [
        (path.name, node.lineno)
        for path in (boundaries.STAGES / "stages").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and any(isinstance(a, ast.Constant) and a.value == verb for a in node.args)
    ]
    assert len(used) == 1
    (name, line), kind = used[0], VERBS[verb]
    (place,) = [place for place in boundaries.places() if place.kind == kind]
    assert (Path(place.file).name, 0 < line - place.line <= 3) == (name, True)


def test_a_kind_that_is_not_a_plain_word_is_refused() -> None:
    with pytest.raises(ValueError, match="plain word"):
        list(boundaries._places(ast.parse("with run.effect(kind, name):\n    pass"), "x.py"))


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
