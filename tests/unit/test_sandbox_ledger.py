import asyncio
import json
import stat
from pathlib import Path

import pytest
from pytest_mock import MockerFixture
from starlette.types import Message, Receive, Scope, Send

from clawdet_cli.sandbox import ledger
from clawdet_cli.sandbox.info import Files
from clawdet_cli.sandbox.ledger import Ledger


def test_a_saved_ledger_is_read_again_and_nobody_elses_business(tmp_path: Path) -> None:
    kept = Ledger(Files(tmp_path))
    kept.part("hetzner")["servers"] = [1]
    kept.save()
    assert Ledger(Files(tmp_path)).part("hetzner") == {"servers": [1]}
    assert stat.S_IMODE((tmp_path / "ledger.json").stat().st_mode) == 0o600


def test_a_change_is_saved_soon_without_being_asked(tmp_path: Path) -> None:
    async def change() -> None:
        kept = Ledger(Files(tmp_path))
        kept.part("a")["b"] = 1
        kept.changed()
        kept.changed()
        async with asyncio.timeout(5):
            while not (tmp_path / "ledger.json").exists():  # noqa: ASYNC110  # a file has no event to wait for
                await asyncio.sleep(0.005)

    asyncio.run(change())
    assert Files(tmp_path).read_ledger() == {"a": {"b": 1}}


def test_no_answer_leaves_before_the_change_it_tells_of_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001  # an ASGI application's signature
        kept.part("a")["b"] = 1
        kept.changed()
        await send({"type": "http.response.start", "status": 201, "headers": []})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:  # noqa: ARG001  # as above
        seen.append(json.loads(path.read_text()))

    async def answer() -> None:
        await kept.before_answers(app)({"type": "http"}, receive, send)

    kept = Ledger(Files(tmp_path))
    asyncio.run(answer())
    assert seen == [{"a": {"b": 1}}]


def test_answers_that_come_while_saving_rests_wait_for_the_same_save(
    tmp_path: Path, mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_REST", 1e3)
    kept = Ledger(Files(tmp_path))
    write = mocker.spy(ledger, "write_private")
    told: list[int] = []

    async def answer(number: int) -> None:
        for _ in range(3 * number):
            await asyncio.sleep(0)
        kept.part("a")[str(number)] = number
        kept.changed()
        await kept.saved()
        assert str(number) in Files(tmp_path).read_ledger()["a"]
        told.append(number)

    async def answers() -> None:
        kept.save()
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(answer(number))
        await kept.saved()  # nothing is left to save

    asyncio.run(answers())
    assert sorted(told) == list(range(10))
    assert write.call_count == 2


def test_an_answer_whose_change_cannot_be_saved_fails(tmp_path: Path, mocker: MockerFixture) -> None:
    kept = Ledger(Files(tmp_path))

    async def answer() -> None:
        kept.changed()
        mocker.patch.object(ledger, "write_private", side_effect=OSError("the disk is full"))
        with pytest.raises(OSError, match="full"):
            await kept.saved()
        mocker.stopall()
        kept.changed()
        await kept.saved()

    asyncio.run(answer())
    assert Files(tmp_path).read_ledger() == {}


def test_what_is_saved_is_the_state_whatever_changed_in_it(tmp_path: Path) -> None:
    kept = Ledger(Files(tmp_path))
    server = {"id": 1, "labels": {"a": "b"}, "addresses": [{"ip": "1.2.3.4"}]}
    projects = kept.part("hetzner").setdefault("projects", {"one": {"server": {"1": server}, "empty": {}}})

    def saved() -> bool:
        kept.save()
        return Files(tmp_path).read_ledger() == kept.state

    assert saved()
    server["labels"]["a"] = "c"  # type: ignore[index]  # the values are of several kinds
    assert saved()
    server["addresses"][0]["ip"] = "4.3.2.1"  # type: ignore[index]  # as above
    assert saved()
    projects["one"]["server"]["2"] = {"id": 2}
    assert saved()
    del projects["one"]["server"]["1"]
    assert saved()
    projects["one"]["server"] = []
    assert saved()
    projects["one"]["server"] = {"1": server, 'with "quotes"': None}
    assert saved()


def test_only_what_changed_is_written_anew(tmp_path: Path, mocker: MockerFixture) -> None:
    """Before each answer: otherwise a thousand servers keep the emulated clouds busy with writing them."""
    kept = Ledger(Files(tmp_path))
    servers = {str(number): {"id": number, "status": "running"} for number in range(100)}
    kept.part("hetzner")["projects"] = {"one": {"server": servers}}
    kept.save()
    dumps = mocker.spy(json, "dumps")
    servers["7"]["status"] = "off"
    kept.save()
    assert [call.args for call in dumps.call_args_list] == [(servers["7"],)]
    assert Files(tmp_path).read_ledger() == kept.state
