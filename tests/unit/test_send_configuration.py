"""When the configuration may wait on the VPS, and when it would come before there is anything to configure."""

from types import SimpleNamespace
from typing import Any

import pytest
from pytest_mock import MockerFixture

from clawdet_cli.stages import provision


@pytest.mark.parametrize(
    ("prepared", "preparing", "sent"),
    [
        ({"openclaw_version": "2026.9.6"}, None, True),
        (None, SimpleNamespace(ours=True), True),
        (None, SimpleNamespace(ours=False), False),
    ],
    ids=["by the pool", "behind an installation of ours", "behind somebody else's, which ours may have to follow"],
)
def test_it_is_sent_behind_what_is_ours(prepared: Any, preparing: Any, sent: bool, mocker: MockerFixture) -> None:
    begun = mocker.patch.object(provision, "_begun_configuration")
    run: Any = SimpleNamespace(prepared=prepared, preparing=preparing, configuring=None)
    provision.send_configuration(run)
    assert (run.configuring is begun.return_value) == sent
    assert begun.called == sent
