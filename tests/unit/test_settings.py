import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clawdet_cli.errors import ConfigError
from clawdet_cli.network import DIRECT
from clawdet_cli.settings import (
    CLOUDFLARE_URL,
    HETZNER_URL,
    PROVIDERS,
    Endpoints,
    Settings,
    load,
    state_folder,
)

TOKEN = "hcloud-0123456789abcdef"
OTHER_TOKEN = "cloudflare-0123456789abcdef"

SANDBOX: Mapping[str, Any] = {
    "hetzner_url": "http://127.17.3.2:8001/v1",
    "hetzner_token": "sandbox-hetzner-token",
    "cloudflare_url": "http://127.17.3.2:8002/client/v4",
    "cloudflare_token": "sandbox-cloudflare-token",
    "zone": "clawdet.test",
    "edge_address": "127.17.3.1:443",
    "dns_address": "127.17.3.53:53",
    "ca_file": "/somewhere/ca.pem",
    "dial_file": "",
    "artifacts": {"24.21.0/x86": {"node_url": "http://127.17.3.2:8003/node"}},
    "servers": "real",
}


class Place:
    """A place to look for settings in: the file, the environment, the flags."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "config.toml"
        self.state = folder / "state"

    def write(self, text: str, mode: int = 0o600) -> None:
        self.file.write_text(text)
        self.file.chmod(mode)

    def load(
        self,
        flags: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        sandbox: Mapping[str, Any] | None = None,
    ) -> Settings:
        return load(
            {"state": self.state, **(flags or {})},
            {"CLAWDET_CONFIG": str(self.file), **(environment or {})},
            default_openclaw="2026.9.6",
            sandbox=sandbox,
        )

    def refusal(self, *arguments: Any, **named: Any) -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            self.load(*arguments, **named)
        return caught.value


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def everything(error: ConfigError) -> str:
    return "\n".join([error.what, *error.next_steps, *error.details, repr(error), str(error.__context__)])


@pytest.mark.parametrize(
    ("setting", "variable", "default", "values"),
    [
        ("zone", "CLAWDET_ZONE", None, ("file.example", "environment.example", "flag.example")),
        ("image", "CLAWDET_IMAGE", "ubuntu-24.04", ("debian-12", "debian-13", "ubuntu-26.04")),
        ("openclaw_version", "CLAWDET_OPENCLAW_VERSION", "2026.9.6", ("2026.9.1", "2026.9.2", "2026.9.3")),
        ("model", "CLAWDET_MODEL", None, ("xai/in-file", "xai/in-environment", "xai/in-flag")),
    ],
)
def test_flags_beat_the_environment_beats_the_file_beats_the_default(
    place: Place, setting: str, variable: str, default: str | None, values: tuple[str, str, str]
) -> None:
    in_file, in_environment, flag = values
    assert getattr(place.load(), setting) == default
    place.write(f'{setting} = "{in_file}"')
    assert getattr(place.load(), setting) == in_file
    assert getattr(place.load({setting: None}, {variable: ""}), setting) == in_file
    assert getattr(place.load({setting: None}, {variable: in_environment}), setting) == in_environment
    assert getattr(place.load({setting: flag}, {variable: in_environment}), setting) == flag


@pytest.mark.parametrize(
    ("setting", "variable", "default"),
    [
        ("server_types", "CLAWDET_SERVER_TYPE", ("cpx22", "cx23", "cx33")),
        ("locations", "CLAWDET_LOCATION", ("nbg1", "fsn1", "hel1")),
    ],
)
def test_lists_of_candidates_come_from_the_strongest_place_too(
    place: Place, setting: str, variable: str, default: tuple[str, ...]
) -> None:
    assert getattr(place.load(), setting) == default
    place.write(f'{setting} = ["one", "two"]')
    assert getattr(place.load(), setting) == ("one", "two")
    place.write(f'{setting} = "one"')
    assert getattr(place.load(), setting) == ("one",)
    assert getattr(place.load({}, {variable: "three, four"}), setting) == ("three", "four")
    assert getattr(place.load({setting: "five"}, {variable: "three, four"}), setting) == ("five",)


def test_the_timeout_comes_from_the_strongest_place_too(place: Place) -> None:
    assert place.load().timeout == 900
    place.write("timeout = 60")
    assert place.load().timeout == 60
    assert place.load({}, {"CLAWDET_TIMEOUT": "70.5"}).timeout == 70.5
    assert place.load({"timeout": 80.0}, {"CLAWDET_TIMEOUT": "70"}).timeout == 80


def test_the_ssh_key_comes_from_the_strongest_place_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert place.load().ssh_key == place.state / "ssh" / "id_ed25519"
    place.write('ssh_key = "~/in-file"')
    assert place.load().ssh_key == Path("/home/somebody/in-file")
    assert place.load({}, {"CLAWDET_SSH_KEY": "/in-environment"}).ssh_key == Path("/in-environment")
    assert place.load({"ssh_key": Path("/in-flag")}, {"CLAWDET_SSH_KEY": "/x"}).ssh_key == Path("/in-flag")


def test_the_networks_of_ssh_come_from_the_strongest_place_too(place: Place) -> None:
    assert place.load().ssh_from == frozenset()
    place.write('ssh_from = ["203.0.113.7", "2001:db8::/48"]')
    assert place.load().ssh_from == {"203.0.113.7/32", "2001:db8::/48"}
    assert place.load({}, {"CLAWDET_SSH_FROM": "198.51.100.0/24, 203.0.113.7"}).ssh_from == {
        "198.51.100.0/24",
        "203.0.113.7/32",
    }
    assert place.load({"ssh_from": "::/0"}, {"CLAWDET_SSH_FROM": "x"}).ssh_from == {"::/0"}


@pytest.mark.parametrize(
    ("setting", "key", "variable"),
    [
        ("hetzner_token", "hcloud_token", "HCLOUD_TOKEN"),
        ("cloudflare_token", "cloudflare_api_token", "CLOUDFLARE_API_TOKEN"),
    ],
)
def test_a_token_in_the_environment_beats_the_one_in_the_file(
    place: Place, setting: str, key: str, variable: str
) -> None:
    assert getattr(place.load(), setting) is None
    place.write(f'{key} = "{TOKEN}"')
    assert getattr(place.load(), setting).reveal() == TOKEN
    assert getattr(place.load({}, {variable: f"  {OTHER_TOKEN}\n"}), setting).reveal() == OTHER_TOKEN


@pytest.mark.parametrize("variable", PROVIDERS)
def test_a_providers_key_in_the_environment_beats_the_one_in_the_file(place: Place, variable: str) -> None:
    assert place.load().provider_keys == {}
    place.write(f'[provider_keys]\n{variable.removesuffix("_API_KEY").lower()} = "{TOKEN}"')
    assert {name: key.reveal() for name, key in place.load().provider_keys.items()} == {variable: TOKEN}
    assert place.load({}, {variable: OTHER_TOKEN}).provider_keys[variable].reveal() == OTHER_TOKEN


def test_the_keys_come_in_an_order_of_their_own_however_they_are_set(place: Place) -> None:
    both = {"OPENROUTER_API_KEY": TOKEN, "OPENAI_API_KEY": TOKEN}
    assert list(place.load({}, both).provider_keys) == ["OPENAI_API_KEY", "OPENROUTER_API_KEY"]


def test_the_state_folder_is_the_flag_else_the_variable_else_the_platforms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "platform"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path in state_folder(None, {}).parents
    assert state_folder(None, {"CLAWDET_STATE": "here"}) == tmp_path / "here"
    assert state_folder("~/there", {"CLAWDET_STATE": "here"}) == tmp_path / "there"
    with pytest.raises(ConfigError, match="~nobody-of-this-name/x: no home folder is known for it"):
        state_folder("~nobody-of-this-name/x", {})


@pytest.mark.parametrize(
    ("method", "what", "places"),
    [
        ("required_zone", "DNS zone", ["--zone", "CLAWDET_ZONE", "'zone'"]),
        ("required_hetzner_token", "Hetzner", ["HCLOUD_TOKEN", "'hcloud_token'"]),
        ("required_cloudflare_token", "Cloudflare", ["CLOUDFLARE_API_TOKEN", "'cloudflare_api_token'"]),
    ],
)
def test_what_is_missing_says_where_it_was_looked_for_and_how_to_get_it(
    place: Place, method: str, what: str, places: list[str]
) -> None:
    others = {"CLAWDET_ZONE": "example.com", "HCLOUD_TOKEN": "h" * 64, "CLOUDFLARE_API_TOKEN": "c" * 40}
    with pytest.raises(ConfigError) as caught:
        getattr(place.load(None, {name: value for name, value in others.items() if name not in places}), method)()
    assert all(part in caught.value.what for part in [what, "missing", str(place.file), *places])
    assert len(caught.value.next_steps) == 2
    assert "--sandbox" in caught.value.next_steps[-1]


@pytest.mark.parametrize(
    ("method", "named"),
    [("required_zone", ["zone", "HCLOUD_TOKEN", "CLOUDFLARE_API_TOKEN"]), ("required_hetzner_token", ["HCLOUD_TOKEN"])],
)
def test_all_that_is_missing_is_named_at_once(place: Place, method: str, named: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        getattr(place.load(), method)()
    told = " ".join([caught.value.what, *caught.value.details])
    assert all(name in told for name in [*named, "CLOUDFLARE_API_TOKEN"])
    assert f"{len({*named, 'CLOUDFLARE_API_TOKEN'})} settings are missing" in told
    assert len(caught.value.next_steps) == len({*named, "CLOUDFLARE_API_TOKEN"}) + 1


def test_a_zones_id_is_one_of_cloudflares(place: Place) -> None:
    assert place.load(None, {"CLAWDET_ZONE_ID": "0" * 32}).zone_id == "0" * 32
    with pytest.raises(ConfigError, match="CLAWDET_ZONE_ID"):
        place.load(None, {"CLAWDET_ZONE_ID": "example.com"})


def test_what_is_required_is_given_when_it_is_there(place: Place) -> None:
    found = place.load({"zone": "example.com"}, {"HCLOUD_TOKEN": TOKEN, "CLOUDFLARE_API_TOKEN": OTHER_TOKEN})
    assert found.required_zone() == "example.com"
    assert found.required_hetzner_token().reveal() == TOKEN
    assert found.required_cloudflare_token().reveal() == OTHER_TOKEN


@pytest.mark.parametrize(
    ("flag", "variable", "key", "bad"),
    [
        ("--zone", "CLAWDET_ZONE", "zone", "Example.com"),
        ("--zone", "CLAWDET_ZONE", "zone", "example"),
        ("--zone", "CLAWDET_ZONE", "zone", "https://example.com"),
        ("--zone", "CLAWDET_ZONE", "zone", "-a.example"),
        ("--server-type", "CLAWDET_SERVER_TYPE", "server_types", "cpx22,CX 23"),
        ("--location", "CLAWDET_LOCATION", "locations", "nbg1,"),
        ("--image", "CLAWDET_IMAGE", "image", "Ubuntu 24.04"),
        ("--openclaw-version", "CLAWDET_OPENCLAW_VERSION", "openclaw_version", "latest"),
        ("--model", "CLAWDET_MODEL", "model", "grok"),
        ("--timeout", "CLAWDET_TIMEOUT", "timeout", "soon"),
        ("--timeout", "CLAWDET_TIMEOUT", "timeout", "0"),
        ("--timeout", "CLAWDET_TIMEOUT", "timeout", "nan"),
        ("--timeout", "CLAWDET_TIMEOUT", "timeout", "1e9"),
    ],
)
def test_a_malformed_value_names_the_place_where_it_stands(
    place: Place, flag: str, variable: str, key: str, bad: str
) -> None:
    assert place.refusal({key: bad}).what.startswith(f"{flag} is ")
    assert place.refusal({}, {variable: bad}).what.startswith(f"{variable} is ")
    place.write(f"{key} = {json.dumps(bad)}")
    refused = place.refusal()
    assert refused.what.startswith(f"'{key}' in {place.file} is ")
    assert "expected" in refused.what


@pytest.mark.parametrize(
    "line",
    ["zone = 5", "server_types = 5", "locations = []", "image = ['a']", "ssh_key = 5", 'ssh_key = ""', "model = {}"],
)
def test_a_value_of_the_wrong_type_names_its_key(place: Place, line: str) -> None:
    place.write(line)
    assert f"'{line.split(maxsplit=1)[0]}' in {place.file}" in place.refusal().what


@pytest.mark.parametrize("bad", ["short", "two words " + TOKEN, "t\u00f6ken-" + TOKEN, "x" * 513, TOKEN + "\nline"])
@pytest.mark.parametrize(
    ("key", "variable", "named"),
    [
        ("hcloud_token", "HCLOUD_TOKEN", "hcloud_token"),
        ("cloudflare_api_token", "CLOUDFLARE_API_TOKEN", "cloudflare_api_token"),
        ("provider_keys.anthropic", "ANTHROPIC_API_KEY", "provider_keys.anthropic"),
    ],
)
def test_a_malformed_token_is_named_and_never_shown(
    place: Place, key: str, variable: str, named: str, bad: str
) -> None:
    from_environment = place.refusal({}, {variable: bad})
    place.write(f"{key} = {json.dumps(bad)}")
    from_file = place.refusal()
    assert from_environment.what.startswith(f"{variable} does not look like a token")
    assert from_file.what.startswith(f"'{named}' in {place.file} does not look like a token")
    for refused in (from_environment, from_file):
        assert bad not in everything(refused)
        assert TOKEN not in everything(refused)
        assert variable in refused.next_steps[0]


@pytest.mark.parametrize("value", ["5", "true", "['a-token-in-a-list']"])
def test_a_token_of_the_wrong_type_is_refused_unseen(place: Place, value: str) -> None:
    place.write(f"hcloud_token = {value}")
    assert "a-token-in-a-list" not in everything(place.refusal())


def test_tokens_are_masked_in_whatever_prints_settings(place: Place) -> None:
    found = place.load({}, {"HCLOUD_TOKEN": TOKEN, "CLOUDFLARE_API_TOKEN": TOKEN, "XAI_API_KEY": TOKEN})
    assert found.hetzner_token is not None
    for shown in (repr(found), str(found), f"{found.hetzner_token}", f"{found.hetzner_token!r}"):
        assert TOKEN not in shown
        assert "***" in shown


@pytest.mark.parametrize("secret", ['hcloud_token = "{}"', 'cloudflare_api_token = "{}"', 'provider_keys.xai = "{}"'])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620, 0o601])
def test_a_file_with_secrets_that_others_may_touch_is_refused(place: Place, secret: str, mode: int) -> None:
    place.write(secret.format(TOKEN), mode)
    refused = place.refusal()
    assert "can be read by others" in refused.what
    assert refused.next_steps == (f"chmod 600 {place.file}",)
    assert TOKEN not in everything(refused)
    place.file.chmod(0o600)
    place.load()
    place.file.chmod(0o400)
    place.load()


def test_a_file_without_secrets_may_be_open_to_all(place: Place) -> None:
    place.write('zone = "example.com"', 0o644)
    assert place.load().zone == "example.com"


@pytest.mark.parametrize(
    ("text", "key"), [('zonne = "example.com"', "zonne"), ('provider_keys.antropic = "x"', "provider_keys.antropic")]
)
def test_an_unknown_key_is_refused_with_those_that_are_known(place: Place, text: str, key: str) -> None:
    place.write(text)
    refused = place.refusal().what
    assert str(place.file) in refused
    assert f"unknown key '{key}'" in refused
    assert ("anthropic" if "." in key else "hcloud_token") in refused


def test_provider_keys_that_are_no_table_are_refused(place: Place) -> None:
    place.write(f'provider_keys = "{TOKEN}"')
    refused = place.refusal()
    assert "must be a table" in refused.what
    assert TOKEN not in everything(refused)


def test_a_file_that_is_no_toml_is_refused_without_showing_what_is_in_it(place: Place) -> None:
    place.write(f"hcloud_token = {TOKEN}")
    refused = place.refusal()
    assert str(place.file) in refused.what
    assert "line 1" in refused.what
    assert TOKEN not in everything(refused)


def test_a_file_in_another_encoding_is_refused_as_unreadable(place: Place) -> None:
    place.file.write_bytes(b'zone = "\xe9xample.com"')
    assert f"{place.file} cannot be read" in place.refusal().what


def test_a_folder_in_the_place_of_the_file_is_refused_as_unreadable(place: Place) -> None:
    place.file.mkdir()
    assert f"{place.file} cannot be read" in place.refusal().what


def test_without_a_sandbox_the_real_clouds_are_addressed(place: Place) -> None:
    assert place.load().endpoints == Endpoints(HETZNER_URL, CLOUDFLARE_URL)
    assert place.load().state_file == place.state / "clawdet.db"


def test_a_sandbox_never_meets_the_tokens_or_the_zone_of_the_real_clouds(place: Place) -> None:
    place.write(f'zone = "file.example"\nhcloud_token = "{TOKEN}"\ncloudflare_api_token = "{TOKEN}"')
    real = {"HCLOUD_TOKEN": TOKEN, "CLOUDFLARE_API_TOKEN": TOKEN, "CLAWDET_ZONE": "environment.example"}
    found = place.load({}, real, SANDBOX)
    assert found.required_hetzner_token().reveal() == "sandbox-hetzner-token"
    assert found.required_cloudflare_token().reveal() == "sandbox-cloudflare-token"
    assert found.zone == "clawdet.test"
    assert found.endpoints == Endpoints(
        hetzner_url="http://127.17.3.2:8001/v1",
        cloudflare_url="http://127.17.3.2:8002/client/v4",
        ca_file=Path("/somewhere/ca.pem"),
        dns_address=("127.17.3.53", 53),
        artifacts=SANDBOX["artifacts"],
        sandbox="SANDBOX, real servers",
        unused_address="127.255.255.254",
    )


def test_the_real_clouds_never_meet_what_is_a_sandboxs(place: Place) -> None:
    found = place.load({}, {"HCLOUD_TOKEN": TOKEN, "CLOUDFLARE_API_TOKEN": OTHER_TOKEN})
    sandboxed = place.load({}, {}, SANDBOX)
    assert found.state_file != sandboxed.state_file
    assert sandboxed.state_dir == place.state / "sandbox"
    assert found.ssh_key != sandboxed.ssh_key
    assert found.endpoints.sandbox == ""
    assert found.zone is None


def test_a_sandbox_takes_its_zone_from_the_flag_alone_and_checks_it(place: Place) -> None:
    assert place.load({"zone": "other.test"}, {}, SANDBOX).zone == "other.test"
    assert place.refusal({"zone": "Other.test"}, {}, SANDBOX).what.startswith("--zone is ")


def test_malformed_tokens_of_the_real_clouds_do_not_keep_a_sandbox_from_working(place: Place) -> None:
    assert place.load({}, {"HCLOUD_TOKEN": "x", "CLAWDET_ZONE": "X"}, SANDBOX).zone == "clawdet.test"


def test_an_address_is_dialled_as_it_is_where_there_is_no_map() -> None:
    assert Endpoints().dial("192.0.2.1", 22) == ("192.0.2.1", 22)


def test_the_dial_map_is_read_anew_at_each_connection(tmp_path: Path) -> None:
    dial_file = tmp_path / "dial.json"
    endpoints = Endpoints(dial_file=dial_file)
    dial_file.write_text('{"127.18.3.1:22": "127.0.0.1:40022"}')
    assert endpoints.dial("127.18.3.1", 22) == ("127.0.0.1", 40022)
    assert endpoints.dial("127.18.3.1", 443) == ("127.18.3.1", 443)
    dial_file.write_text('{"127.18.3.1:22": "127.0.0.2:50022"}')
    assert endpoints.dial("127.18.3.1", 22) == ("127.0.0.2", 50022)


@pytest.mark.parametrize("bad", ["sk-0123$456789", "sk-0123!456789", "'sk-0123456789'", "sk-0123#456789"])
def test_a_provider_key_that_the_script_would_refuse_is_refused_before_anything_is_bought(
    place: Place, bad: str
) -> None:
    refusal = place.refusal({}, {"OPENAI_API_KEY": bad})
    assert refusal.what.startswith("OPENAI_API_KEY does not look like a token")
    assert bad not in refusal.what


@pytest.mark.parametrize("bad", ["_openai/gpt", "openai/.gpt", "openai/gpt/", "openai//gpt", "openai"])
def test_so_is_a_model(place: Place, bad: str) -> None:
    assert bad in place.refusal({"model": bad}).what


def test_a_command_leads_to_the_vps_where_one_is_named(place: Place) -> None:
    jump = "ssh -W %h:%p jump.example.com"
    place.write(f'ssh_proxy = "{jump}"\n')
    assert place.load().ssh_proxy == jump
    assert place.load(environment={"CLAWDET_SSH_PROXY": "nc %h %p"}).ssh_proxy == "nc %h %p"
    assert place.load({"ssh_proxy": "none"}, {"CLAWDET_SSH_PROXY": "nc %h %p"}).ssh_proxy is None


@pytest.mark.parametrize("bad", [" ", "nc %h\n%p", "nc %n 22", "nc %", "printf 100%%%"])
def test_a_command_that_is_none_is_refused(place: Place, bad: str) -> None:
    with pytest.raises(ConfigError, match="--ssh-proxy"):
        place.load({"ssh_proxy": bad})


def test_a_sandbox_is_on_this_machine_so_that_nothing_leads_out_of_it(place: Place) -> None:
    out = {"HTTPS_PROXY": "http://proxy:3128", "SSL_CERT_FILE": "/nowhere", "CLAWDET_SSH_PROXY": "nc %h %p"}
    found = place.load(environment=out, sandbox=SANDBOX)
    assert (found.network, found.ssh_proxy) == (DIRECT, None)
    assert place.load({"ssh_proxy": "nc %h %p"}, sandbox=SANDBOX).ssh_proxy == "nc %h %p"
    assert str(place.load(environment=out).network.proxy_for("example.com")) == "http://proxy:3128 (HTTPS_PROXY)"
