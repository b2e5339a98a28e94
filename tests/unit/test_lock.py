"""What is installed from the Python side is pinned by digest, from wherever it is fetched."""

import re
import tomllib
from pathlib import Path

PINNED = re.compile(r"[a-z0-9._-]+(\[[a-z,]+\])?==[^ ]+( ; [^\\]+)? \\\n {4}--hash=sha256:[0-9a-f]{64}")
CHECKOUT = Path(__file__).parents[2]
LOCK = CHECKOUT / "requirements.lock"


def test_every_package_is_pinned_with_digests_and_no_address_is_named() -> None:
    text = LOCK.read_text()
    entries = [entry for entry in re.split(r"\n(?=[a-z])", text) if re.match(r"[a-z]", entry)]
    assert len(entries) > 40
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+(\[[a-z,]+\])?==[^ ]+( ; [^\\]+)? \\\n {4}--hash=sha256:[0-9a-f]{64}", entry), (
            entry
        )
    assert "://" not in text
    assert not re.search(r"^\s*--(?!hash)", text, re.MULTILINE)


def test_what_builds_the_checkout_is_pinned_too_and_nothing_else_is_fetched_for_it() -> None:
    wanted = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["build-system"]["requires"]
    locked = re.findall(r"^[a-z0-9._-]+(?===)", LOCK.read_text(), re.MULTILINE)
    assert {re.split("[<>=]", one)[0] for one in wanted} <= set(locked)
    for name in ("README.md", ".ci/run"):
        assert "--no-deps --no-build-isolation -e ." in (CHECKOUT / name).read_text()
