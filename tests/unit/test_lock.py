"""What is installed from the Python side is pinned by digest, from wherever it is fetched."""

import re
from pathlib import Path

PINNED = re.compile(r"[a-z0-9._-]+(\[[a-z,]+\])?==[^ ]+( ; [^\\]+)? \\\n {4}--hash=sha256:[0-9a-f]{64}")
LOCK = Path(__file__).parents[2] / "requirements.lock"


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
