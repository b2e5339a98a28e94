"""The parts of a bundle that need no npm: packing, digests, the manifest, the setting, and the line's speed."""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from clawdet_cli import bootstrap, pins, settings
from clawdet_cli.bundle import build, fetch, pack, source, tree
from clawdet_cli.bundle.manifest import Manifest, parse
from clawdet_cli.bundle.prune import prune
from clawdet_cli.errors import ConfigError
from clawdet_cli.secret import Secret
from clawdet_cli.stages import bundle as stage

PINNED = pins.load().for_openclaw("2026.9.6", "x86")
MANIFEST = Manifest(
    openclaw_version="2026.9.6",
    node_version=PINNED.node_version,
    caddy_version=PINNED.caddy_version,
    architecture="x86",
    node_executable_sha256=PINNED.node.executable_sha256,
    caddy_executable_sha256=PINNED.caddy.executable_sha256,
    lock_sha256=PINNED.lock_sha256,
    npm_sha256="a" * 64,
    tree_sha256="a" * 64,
    files=3,
    unpacked_bytes=1000,
    archive_sha256="b" * 64,
    archive_bytes=7,
    built={"ran": [], "not_run": ["anything"]},
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return filled(tmp_path / "root", ["node/tool", "openclaw/ä.js", "openclaw/z/a.js", "openclaw/a.js", "caddy"])


def filled(root: Path, names: list[str]) -> Path:
    """Make a small tree, in the order of the names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"content of {name}\n" * 50)
    (root / "node/tool").chmod(0o700)
    (root / "openclaw/link").symlink_to("a.js")
    tree.normalise(root)
    return root


def packed(root: Path, target: Path) -> bytes:
    digest, size = pack.pack(root, target, pack.moment("2026.9.6"))
    assert (hashlib.sha256(target.read_bytes()).hexdigest(), target.stat().st_size) == (digest, size)
    return target.read_bytes()


def test_the_same_files_give_the_same_bytes_whoever_made_them_when_and_in_which_order(
    root: Path, tmp_path: Path
) -> None:
    other = filled(tmp_path / "other", ["caddy", "openclaw/a.js", "openclaw/z/a.js", "openclaw/ä.js", "node/tool"])
    for path in other.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    (other / "openclaw/a.js").chmod(0o600)
    tree.normalise(other)
    if os.geteuid() == 0:
        os.chown(other / "openclaw/a.js", 12345, 12345)
    assert packed(root, tmp_path / "one") == packed(other, tmp_path / "two")
    assert tree.digest(root) == tree.digest(other)


def test_an_archive_holds_nothing_of_the_machine_that_made_it(root: Path, tmp_path: Path) -> None:
    content = zstandard.ZstdDecompressor().stream_reader(packed(root, tmp_path / "archive")).read()
    (tmp_path / "plain.tar").write_bytes(content)
    with tarfile.open(tmp_path / "plain.tar") as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == sorted(member.name for member in members)
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", 1788652800)}
    assert {oct(member.mode) for member in members if not member.issym()} == {"0o755", "0o644"}


@pytest.mark.parametrize("change", ["content", "mode", "name", "link", "new", "gone", "kind"])
def test_every_change_changes_the_digest_of_the_tree(root: Path, change: str) -> None:
    before = tree.digest(root)
    match change:
        case "content":
            (root / "openclaw/a.js").write_text("other")
        case "mode":
            (root / "openclaw/a.js").chmod(0o755)
        case "name":
            (root / "openclaw/a.js").rename(root / "openclaw/b.js")
        case "link":
            (root / "openclaw/link").unlink()
            (root / "openclaw/link").symlink_to("z/a.js")
        case "new":
            (root / "openclaw/empty").mkdir(mode=0o755)
        case "gone":
            (root / "openclaw/a.js").unlink()
        case "kind":
            (root / "openclaw/link").unlink()
            shutil.copyfile(root / "openclaw/a.js", root / "openclaw/link")
    assert tree.digest(root) != before


@pytest.mark.parametrize("what", ["setuid", "writable", "absolute link", "link out", "pipe"])
def test_what_no_bundle_may_hold_is_not_packed(root: Path, what: str) -> None:
    match what:
        case "setuid":
            (root / "node/tool").chmod(0o4755)
        case "writable":
            (root / "node/tool").chmod(0o777)
        case "absolute link":
            (root / "out").symlink_to("/etc/passwd")
        case "link out":
            (root / "openclaw/out").symlink_to("../../x")
        case "pipe":
            os.mkfifo(root / "pipe", 0o644)
    with pytest.raises(ConfigError, match="may not hold"):
        tree.check(root)


def test_only_what_node_never_reads_is_left_out(tmp_path: Path) -> None:
    kept = ["openclaw/a.map", "openclaw/a.d.ts", "typescript/lib/lib.d.ts", "x/a.js", "x/package.json", "x/README.md"]
    for name in [*kept, "x/a.js.map", "x/a.d.ts", "@s/x/node_modules/y/a.d.mts", "@s/x/a.ts"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    prune(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


def test_a_manifest_is_read_back_as_it_was_written() -> None:
    assert parse(MANIFEST.text(), "x.json") == MANIFEST
    assert MANIFEST.file_name == "clawdet-bundle-2026.9.6-x86.tar.zst"


@pytest.mark.parametrize(
    "change",
    [
        {"format": 1},
        {"npm_sha256": "A" * 64},
        {"tree_sha256": "A" * 64},
        {"tree_sha256": None},
        {"archive_bytes": -1},
        {"archive_bytes": True},
        {"files": "3"},
        {"openclaw_version": "../../x"},
        {"built": []},
        {"colour": "red"},
    ],
)
def test_a_malformed_manifest_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"x\.json is no manifest"):
        parse(json.dumps({**json.loads(MANIFEST.text()), **change}), "x.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "[" * 100_000, " " * 70_000])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no manifest"):
        parse(text, "x.json")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"architecture": "arm"}, "it is for arm, and the VPS is x86"),
        ({"openclaw_version": "2026.9.2"}, "it holds OpenClaw 2026.9.2, and 2026.9.6 is wanted"),
        ({"node_version": "24.20.0"}, "it holds Node 24.20.0, and 24.21.0 is wanted"),
        ({"node_executable_sha256": "0" * 64}, "its Node is not the pinned one"),
        ({"caddy_executable_sha256": "0" * 64}, "its Caddy is not the pinned one"),
        ({"lock_sha256": "0" * 64}, "its OpenClaw's lock is not the pinned one"),
    ],
)
def test_it_says_why_a_bundle_does_not_fit(change: dict[str, str], reason: str | None) -> None:
    assert replace(MANIFEST, **change).unfit(PINNED, "x86") == reason  # type: ignore[arg-type]


def loaded(bundle: str) -> str | None:
    found = settings.load({}, {"CLAWDET_STATE": "/nowhere", "CLAWDET_BUNDLE": bundle}, default_openclaw="2026.9.6")
    if isinstance(found.bundle, Secret):
        return found.bundle.reveal()
    return None if found.bundle is None else str(found.bundle)


@pytest.mark.parametrize(
    "value",
    ["b.tar.zst", "/srv/b.tar.zst", "https://h.test/b.tar.zst", f"http://169.254.169.253/b#sha256={'a' * 64}"],
)
def test_settings_take_a_file_and_an_address(value: str) -> None:
    assert loaded(value) == value


def test_none_is_no_bundle() -> None:
    assert loaded("none") is None


@pytest.mark.parametrize(
    "value",
    [
        "http://h.test/b.tar.zst",  # nothing would vouch for it
        "ftp://h.test/b",
        "file:///etc/passwd",
        "https://h.test/b#sha256=abc",
        f"https://h.test/b#sha512={'a' * 64}",
        'https://h.test/"b',
        "https://h.test/b c",
        "-o",
        "https:/me:pass-word@h.test/b",
        "https://me:pass/word@h.test/b",
        "https://me:1/pass-word@h.test/b",
        "https://me:pass@word@h.test/b",
        "-https://me:pass-word@h.test/b",
        "https://h.test/b?pass-wörd",
    ],
)
def test_settings_refuse_what_is_neither_and_show_nothing_of_it(value: str) -> None:
    with pytest.raises(ConfigError, match="CLAWDET_BUNDLE") as refused:
        loaded(value)
    assert not [part for part in ("pass", "word", "me:") if part in refused.value.what]


def parsed(address: str) -> source.Source:
    return source.parse(Secret(address, ()))


def test_a_signed_address_is_shown_without_what_is_secret_in_it() -> None:
    given = parsed(f"https://me:secret@h.test:8443/a/b.tar.zst?sig=secret#sha256={'a' * 64}")
    assert given.shown == "https://h.test/a/b.tar.zst"
    assert given.manifest(fetch.text) is None
    asked = []

    def remember(url: Secret) -> str:
        asked.append(url.reveal())
        return MANIFEST.text()

    assert parsed("https://h.test/b.tar.zst?sig=1").manifest(remember) == MANIFEST
    assert asked == ["https://h.test/b.tar.zst.json?sig=1"]


def test_the_name_of_an_archive_tells_against_it_where_nothing_else_can() -> None:
    given = parsed(f"https://h.test/clawdet-bundle-2026.9.2-arm.tar.zst?x#sha256={'a' * 64}")
    assert "holds OpenClaw 2026.9.2 for arm" in str(given.named_otherwise("2026.9.6", "x86"))
    assert given.named_otherwise("2026.9.2", "arm") is None
    assert parsed(f"https://h.test/b#sha256={'a' * 64}").named_otherwise("2026.9.6", "x86") is None


def test_a_file_must_be_there_with_its_manifest_and_be_whole(tmp_path: Path) -> None:
    archive = tmp_path / "b.tar.zst"
    given = source.parse(archive)
    with pytest.raises(ConfigError, match="No such file"):
        given.manifest(fetch.text)
    (tmp_path / "b.tar.zst.json").write_text(MANIFEST.text())
    archive.write_bytes(b"1234567")
    assert given.manifest(fetch.text) == MANIFEST
    archive.write_bytes(b"123456")
    with pytest.raises(ConfigError, match="6 bytes, and its manifest says 7"):
        given.manifest(fetch.text)


def test_a_download_is_compared_before_it_is_kept(tmp_path: Path) -> None:
    (tmp_path / "from").write_text("hello")
    url, target = (tmp_path / "from").as_uri(), tmp_path / "to"
    good = hashlib.sha256(b"hello").hexdigest()
    fetch.file(url, target, {"sha256": good})
    assert target.read_text() == "hello"
    with pytest.raises(ConfigError, match="wrong digest"):
        fetch.file(url, target, {"sha256": "0" * 64})
    assert not target.exists()
    with pytest.raises(ConfigError, match="cannot be downloaded: No such file"):
        fetch.file(url + "x", target, {"sha256": good})
    with pytest.raises(ConfigError, match="cannot be downloaded: unknown url type: http"):
        fetch.file("http://127.0.0.1:9/x", target, {"sha256": good})


def test_a_mirror_without_the_architecture_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"The mirror has no Node 24\.21\.0 for arm"):
        build.build("2026.9.6", "arm", tmp_path, {"24.21.0/x86": {}}, lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_the_lock_gets_the_registrys_usual_addresses() -> None:
    lock = {
        "packages": {
            "": {},
            "node_modules/@a/b": {"version": "1.2.3", "integrity": "sha512-x"},
            "node_modules/c/node_modules/d": {"version": "2.0.0", "integrity": "sha512-y", "name": "@e/f"},
        }
    }
    made = json.loads(build._addressed(json.dumps(lock).encode(), "https://r.test"))["packages"]
    assert made["node_modules/@a/b"]["resolved"] == "https://r.test/@a/b/-/b-1.2.3.tgz"
    assert made["node_modules/c/node_modules/d"]["resolved"] == "https://r.test/@e/f/-/f-2.0.0.tgz"
    assert made[""] == {}


class Clock:
    """Time that passes with the bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("clawdet_cli.stages.bundle.time.monotonic", lambda: self.now)

    def carry(self, pieces: Iterator[bytes], bytes_per_second: float) -> int:
        sent = 0
        for piece in pieces:
            sent += len(piece)
            # The first bytes only fill buffers.
            self.now += 0 if sent <= stage.UNTIMED else len(piece) / bytes_per_second
        return sent


@pytest.mark.parametrize(("rate", "fast_enough"), [(20e6, True), (1e6, False)])
def test_a_line_that_is_slower_than_npm_is_given_up_early(
    rate: float, fast_enough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bundle"
    size = 50_000_000
    with file.open("wb") as content:
        content.truncate(size)
    line = stage.Line(file, size, worth=30)
    sent = Clock(monkeypatch).carry(line.pieces(), rate)
    if fast_enough:
        assert (sent, line.too_slow) == (size, "")
        assert line.shown().startswith("50 MB in 2.3 s")
    else:
        assert sent == stage.UNTIMED + stage.TIMED
        assert line.too_slow.startswith("the line carries 1.0 MB/s, so 50 MB would take 4")


def test_a_vpss_reason_is_taken_over_only_as_words() -> None:
    assert bootstrap.refusal({"bundle_refused": "its_digest_is_not_the_expected_one"}).startswith("its digest is not")
    assert bootstrap.refusal({"bundle_refused": "\x1b[2J"}) == ""
    assert bootstrap.refusal({}) == ""


def test_the_command_that_keeps_a_bundle_keeps_a_whole_one_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "BUNDLES", str(tmp_path / "bundles"))
    command = bootstrap.keep_bundle("a" * 64, 5)
    for content, code, kept in ((b"1234", 1, []), (b"12345", 0, ["a" * 64])):
        done = subprocess.run(["sh", "-c", command], input=content, capture_output=True, check=False, timeout=20)
        assert (done.returncode, [path.name for path in (tmp_path / "bundles").iterdir()]) == (code, kept)
