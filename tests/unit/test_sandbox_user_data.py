import base64

import pytest

from clawdet_cli.sandbox.real.machines import unpacked


@pytest.mark.parametrize("text", ["", "#cloud-config\n{}\n", "#!/bin/sh\ntrue\n"])
def test_plain_user_data_reaches_cloud_init_as_it_is(text: str) -> None:
    assert unpacked(text) == text.encode()


def test_base64_is_undone_as_the_providers_data_source_does() -> None:
    packed = b"\x1f\x8b\x08 gzip"
    assert unpacked(base64.b64encode(packed).decode()) == packed
    # Line breaks make it plain text to cloud-init, so such a client would fail on the real provider.
    assert unpacked(base64.encodebytes(packed).decode()) == base64.encodebytes(packed)
