import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from clawdet_cli import settings
from clawdet_cli.adapters import connect
from clawdet_cli.errors import ConfigError
from clawdet_cli.model import Deadline
from clawdet_cli.secret import Secret

HEAVY = ("hcloud", "cloudflare", "paramiko", "requests", "httpx", "tenacity")


@pytest.fixture
def plain(tmp_path: Path) -> settings.Settings:
    environment = {"CLAWDET_CONFIG": str(tmp_path / "none"), "CLAWDET_STATE": str(tmp_path)}
    return settings.load({}, environment, default_openclaw="2026.9.6")


def test_importing_the_adapters_loads_no_sdk() -> None:
    program = f"import clawdet_cli.adapters, sys; print([name for name in {HEAVY} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told == "[]\n"


def test_a_missing_token_is_told_before_anything_is_asked(plain: settings.Settings) -> None:
    with pytest.raises(ConfigError, match="2 settings are missing: the Hetzner Cloud token, the Cloudflare API token"):
        connect(plain, Deadline.after(1))
    with pytest.raises(ConfigError, match="The Cloudflare API token is missing"):
        connect(replace(plain, hetzner_token=Secret("a-token-of-hetzner")), Deadline.after(1))


def test_the_clouds_are_where_the_settings_say(plain: settings.Settings) -> None:
    tokens = replace(plain, hetzner_token=Secret("a-token-of-hetzner"), cloudflare_token=Secret("a-token-of-cf"))
    clouds = connect(tokens, Deadline.after(1))
    assert clouds.hetzner._client._client._endpoint == settings.HETZNER_URL
    assert str(clouds.cloudflare._client.base_url).rstrip("/") == settings.CLOUDFLARE_URL
    clouds.close()
