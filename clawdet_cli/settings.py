"""Where a value comes from: defaults, then the TOML file, then the environment, then flags."""

import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import platformdirs

from clawdet_cli.errors import ConfigError
from clawdet_cli.model import ZONE
from clawdet_cli.network import DIRECT, Network, from_environment
from clawdet_cli.secret import Secret

HETZNER_URL = "https://api.hetzner.cloud/v1"
CLOUDFLARE_URL = "https://api.cloudflare.com/client/v4"

HETZNER_HOW_TO = (
    "make one at https://console.hetzner.cloud: your project, Security, API tokens, Generate, with Read & Write"
)
ZONE_HOW_TO = "name your domain at Cloudflare: --zone example.com"
CLOUDFLARE_HOW_TO = (
    "make one at https://dash.cloudflare.com/profile/api-tokens: Create Token, Custom, for your zone:"
    " Zone Read, DNS Edit, SSL and Certificates Edit, Zone Settings Read"
)

PROVIDERS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "XAI_API_KEY", "OPENROUTER_API_KEY")
"""The variables that hold providers' keys; where several are set, the first decides the default model."""


@dataclass(frozen=True)
class Endpoints:
    """Where the clouds are: all that tells a sandbox from the real ones."""

    hetzner_url: str = HETZNER_URL
    cloudflare_url: str = CLOUDFLARE_URL
    ca_file: Path | None = None
    """Certificate authority of the edge; None is the system's trust."""
    dns_address: tuple[str, int] | None = None
    """The authoritative server; None asks the zone's own name servers."""
    edge_port: int = 443
    dial_file: Path | None = None
    """JSON object {"ip:port": "host:port"}, read at each connection: where the addresses of servers really answer."""
    artifacts: Mapping[str, Any] = field(default_factory=dict)
    """Download locations in place of the vendors' own, with the digests of these archives."""
    sandbox: str = ""
    """How output labels these clouds; empty for the real ones."""
    unused_address: str = "192.0.2.1"
    """An IPv4 address that nobody has (RFC 5737): whoever answers there answers for every address."""

    def dial(self, ip: str, port: int) -> tuple[str, int]:
        """Give the address at which (ip, port) is to be reached from here."""
        if self.dial_file is None:
            return ip, port
        mapped = json.loads(self.dial_file.read_text()).get(f"{ip}:{port}")
        if mapped is None:
            return ip, port
        host, _, mapped_port = mapped.rpartition(":")
        return host, int(mapped_port)


@dataclass(frozen=True)
class Settings:
    """Everything that a command may need to know, checked."""

    state_dir: Path
    config_file: Path
    endpoints: Endpoints
    zone: str | None
    zone_id: str | None
    """Cloudflare's id of the zone, where a token sees several active ones of its name."""
    hetzner_token: Secret | None
    cloudflare_token: Secret | None
    server_types: tuple[str, ...]
    locations: tuple[str, ...]
    image: str
    openclaw_version: str
    model: str | None
    provider_keys: Mapping[str, Secret]
    ssh_key: Path
    ssh_from: frozenset[str]
    """Networks (CIDR) that may reach SSH on the VPS; empty leaves it as it is, everywhere at first."""
    replace_ssh_from: bool
    """Whether networks go that somebody else may have let in."""
    origin_pull_ca: str | None
    """PEM of who must have certified whoever connects to the VPS's web server; empty for nobody, None as it is."""
    bundle: Path | Secret | None
    """The prepared bundle that a VPS installs from: a file, or an address (https), or that with #sha256=DIGEST, which
    may hold a password or be signed. None is npm."""
    pool_days: float
    """How many days ago a server that waits in the pool may have been prepared to be taken; 0 takes none."""
    timeout: float
    """Seconds for the whole command."""
    lock_wait: float
    """Seconds that another run on the same user may take before this one gives up."""
    network: Network = DIRECT
    """How both APIs, the edge and a bundle's manifest are reached."""
    ssh_proxy: str | None = None
    """The command whose standard input and output lead to a VPS, as OpenSSH's ProxyCommand, with %h and %p."""

    @property
    def state_file(self) -> Path:
        """Give the database's path."""
        return self.state_dir / "clawdet.db"

    def required_zone(self) -> str:
        """Return the zone. Raises ConfigError that names all that is missing, the tokens too."""
        if self.zone is None:
            raise self._missing(zone=True)
        return self.zone

    def required_hetzner_token(self) -> Secret:
        """Return the Hetzner token. Raises ConfigError that says how to get one, and the other if that is missing."""
        if self.hetzner_token is None:
            raise self._missing()
        return self.hetzner_token

    def required_cloudflare_token(self) -> Secret:
        """Return the Cloudflare token. Raises ConfigError that says how to get one."""
        if self.cloudflare_token is None:
            raise self._missing()
        return self.cloudflare_token

    def _missing(self, *, zone: bool = False) -> ConfigError:
        """Return the error that names every missing setting at once: whoever needs one of these needs both tokens."""
        wanted = (
            ("The DNS zone", "--zone, CLAWDET_ZONE", "zone", ZONE_HOW_TO, not zone),
            ("The Hetzner Cloud token", "HCLOUD_TOKEN", "hcloud_token", HETZNER_HOW_TO, self.hetzner_token),
            (
                "The Cloudflare API token",
                "CLOUDFLARE_API_TOKEN",
                "cloudflare_api_token",
                CLOUDFLARE_HOW_TO,
                self.cloudflare_token,
            ),
        )
        missing = [one[:4] for one in wanted if not one[4]]
        looked = [
            f"{what} is missing: looked in {places} and '{key}' in {self.config_file}."
            for what, places, key, _ in missing
        ]
        several = f"{len(missing)} settings are missing: " + ", ".join(
            what[0].lower() + what[1:] for what, *_ in missing
        )
        return ConfigError(
            looked[0] if len(looked) == 1 else f"{several}.",
            details=looked if len(looked) > 1 else [],
            next_steps=[*(how for *_, how in missing), "or try everything without an account: add --sandbox"],
        )


_ZONE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_WORD = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}", re.ASCII)
_VERSION = re.compile(r"\d{4}\.\d{1,2}\.\d{1,3}", re.ASCII)
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._:@-]*)+", re.ASCII)
_TOKEN = re.compile(r"[!-~]{8,512}", re.ASCII)
_PROVIDER_KEY = re.compile(r"[A-Za-z0-9._~+/=:@-]{8,512}", re.ASCII)
"""What means itself in an .env file. This and the model are as the script takes them: it would refuse others only
after a server was bought."""

_BUNDLE_URL = re.compile(
    r"https://[!$-\[\]-~]{1,2000}|https?://[!$-\[\]-~]{1,2000}#sha256=[0-9a-f]{64}",  # no quotation mark, #, backslash
    re.ASCII,
)

MOST_PEM = 40_000
"""Characters; the script takes 60,000 of base64."""
MOST_NETWORKS = 100
"""As many as a rule of Hetzner's firewall takes."""

_FILE_KEYS = frozenset(
    "zone zone_id hcloud_token cloudflare_api_token server_types locations image openclaw_version model ssh_key"
    " ssh_from origin_pull_ca bundle pool_days timeout lock_wait ssh_proxy provider_keys".split()
)


class _Lookup:
    """Finds a value where it is set most strongly, and remembers where that was."""

    def __init__(self, config_file: Path, environment: Mapping[str, str], flags: Mapping[str, Any]) -> None:
        self.file = _read(config_file)
        # As TOML itself may spell an entry of that table, so that an error names it as the file does.
        self.file.update({f"provider_keys.{name}": key for name, key in self.file.get("provider_keys", {}).items()})
        self.config_file = config_file
        self.environment = environment
        self.flags = flags

    def find(self, key: str, variable: str) -> tuple[Any, str]:
        if self.flags.get(key) is not None:
            return self.flags[key], "--" + key.removesuffix("s").replace("_", "-")
        if self.environment.get(variable):
            return self.environment[variable], variable
        if key in self.file:
            return self.file[key], f"'{key}' in {self.config_file}"
        return None, ""

    def text(self, key: str, variable: str, shape: re.Pattern[str], rule: str) -> str | None:
        value, where = self.find(key, variable)
        return None if value is None else _matching(value, shape, rule, where)

    def words(self, key: str, variable: str, default: tuple[str, ...]) -> tuple[str, ...]:
        value, where = self.find(key, variable)
        if value is None:
            return default
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list) or not items:
            raise ConfigError(f"{where} must be one name or a list of names, such as cpx22,cx23.")
        return tuple(_matching(item, _WORD, "names of a-z, 0-9, '.' and '-'", where) for item in items)

    def secret(self, key: str, variable: str, shape: re.Pattern[str] = _TOKEN) -> Secret | None:
        value, where = self.find(key, variable)
        if value is None:
            return None
        text = value.strip() if isinstance(value, str) else ""
        if not shape.fullmatch(text):
            # The value itself is never shown: half a token is still half a secret.
            raise ConfigError(
                f"{where} does not look like a token: 8 to 512 visible characters without blanks are expected"
                f"{', of these: A-Z a-z 0-9 . _ ~ + / = : @ -' if shape is _PROVIDER_KEY else ''}.",
                next_steps=[f"set it again, for example: read -rs {variable} && export {variable}"],
            )
        return Secret(text)

    def path(self, key: str, variable: str) -> Path | None:
        value, where = self.find(key, variable)
        if value is None:
            return None
        if not isinstance(value, str | Path) or not str(value):
            raise ConfigError(f"{where} is {value!r}, but the path of a file is expected.")
        return expanded(value)


def load(
    flags: Mapping[str, Any],
    environment: Mapping[str, str] = os.environ,
    *,
    default_openclaw: str,
    sandbox: Mapping[str, Any] | None = None,
) -> Settings:
    """Find every setting. `sandbox` is what a running sandbox says of itself. Raises ConfigError."""
    config_file = Path(environment.get("CLAWDET_CONFIG") or platformdirs.user_config_path("clawdet") / "config.toml")
    lookup = _Lookup(config_file, environment, flags)
    state_dir = state_folder(flags.get("state"), environment)
    # Tokens and zone of the real clouds never meet a sandbox, nor the other way round (failure-modes F25).
    hetzner_token: Secret | None
    cloudflare_token: Secret | None
    if sandbox is not None:
        state_dir /= "sandbox"
        zone = flags.get("zone") or sandbox["zone"]
        zone = _matching(zone, ZONE, "a domain name in lower case", "--zone")
        hetzner_token = Secret(sandbox["hetzner_token"])
        cloudflare_token = Secret(sandbox["cloudflare_token"])
        endpoints = _sandbox_endpoints(sandbox)
    else:
        zone = lookup.text("zone", "CLAWDET_ZONE", ZONE, "a domain name in lower case, such as example.com")
        hetzner_token = lookup.secret("hcloud_token", "HCLOUD_TOKEN")
        cloudflare_token = lookup.secret("cloudflare_api_token", "CLOUDFLARE_API_TOKEN")
        endpoints = Endpoints()
    keys = {name: lookup.secret(f"provider_keys.{_in_file(name)}", name, _PROVIDER_KEY) for name in PROVIDERS}
    return Settings(
        state_dir=state_dir,
        config_file=config_file,
        endpoints=endpoints,
        zone=zone,
        zone_id=None if sandbox else lookup.text("zone_id", "CLAWDET_ZONE_ID", _ZONE_ID, "a zone's id, 32 of 0-9a-f"),
        hetzner_token=hetzner_token,
        cloudflare_token=cloudflare_token,
        server_types=lookup.words("server_types", "CLAWDET_SERVER_TYPE", ("cpx22", "cx23", "cx33")),
        locations=lookup.words("locations", "CLAWDET_LOCATION", ("nbg1", "fsn1", "hel1")),
        image=lookup.text("image", "CLAWDET_IMAGE", _WORD, "an image name such as ubuntu-24.04") or "ubuntu-24.04",
        openclaw_version=lookup.text(
            "openclaw_version", "CLAWDET_OPENCLAW_VERSION", _VERSION, f"a version such as {default_openclaw}"
        )
        or default_openclaw,
        model=lookup.text("model", "CLAWDET_MODEL", _MODEL, "provider/model, such as anthropic/claude-sonnet-4-6"),
        provider_keys={name: key for name, key in keys.items() if key is not None},
        ssh_key=lookup.path("ssh_key", "CLAWDET_SSH_KEY") or state_dir / "ssh" / "id_ed25519",
        ssh_from=_networks(*lookup.find("ssh_from", "CLAWDET_SSH_FROM")),
        replace_ssh_from=bool(flags.get("replace_ssh_from")),
        origin_pull_ca=_pull_ca(*lookup.find("origin_pull_ca", "CLAWDET_ORIGIN_PULL_CA")),
        bundle=_bundle(*lookup.find("bundle", "CLAWDET_BUNDLE")),
        pool_days=_number(*lookup.find("pool_days", "CLAWDET_POOL_DAYS"), "days", least=0, most=365, default=7.0),
        timeout=_seconds(*lookup.find("timeout", "CLAWDET_TIMEOUT"), least=1, default=900.0),
        lock_wait=_seconds(*lookup.find("lock_wait", "CLAWDET_LOCK_WAIT"), least=0, default=0.0),
        # All of a sandbox is on this machine: what leads out of it leads away from there.
        network=DIRECT if sandbox is not None else from_environment(environment),
        ssh_proxy=_command(*_ssh_proxy(lookup, sandbox=sandbox is not None)),
    )


def expanded(path: str | Path) -> Path:
    """Return a path with the home folder that `~` or `~USER` stands for. Raises ConfigError when there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: no home folder is known for it.", next_steps=["write the whole path"]) from None


def state_folder(flag: Any, environment: Mapping[str, str] = os.environ) -> Path:
    """Give the state folder: --state, CLAWDET_STATE, or the platform's own."""
    chosen = flag or environment.get("CLAWDET_STATE")
    return expanded(chosen).absolute() if chosen else platformdirs.user_state_path("clawdet")


def _sandbox_endpoints(sandbox: Mapping[str, Any]) -> Endpoints:
    dns_host, _, dns_port = sandbox["dns_address"].rpartition(":")
    return Endpoints(
        hetzner_url=sandbox["hetzner_url"],
        cloudflare_url=sandbox["cloudflare_url"],
        ca_file=Path(sandbox["ca_file"]),
        dns_address=(dns_host, int(dns_port)),
        dial_file=Path(sandbox["dial_file"]) if sandbox["dial_file"] else None,
        artifacts=sandbox["artifacts"],
        sandbox=f"SANDBOX, {sandbox['servers']} servers",
        unused_address="127.255.255.254",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.", next_steps=[f"mend or remove {path}"]) from None
    unknown = sorted(set(content) - _FILE_KEYS)
    if unknown:
        raise ConfigError(f"{path} has the unknown key '{unknown[0]}'; known are: {', '.join(sorted(_FILE_KEYS))}.")
    if mode & 0o077 and {"hcloud_token", "cloudflare_api_token", "provider_keys"} & set(content):
        raise ConfigError(f"{path} holds secrets and can be read by others.", next_steps=[f"chmod 600 {path}"])
    if not isinstance(content.get("provider_keys", {}), dict):
        raise ConfigError(f"'provider_keys' in {path} must be a table: [provider_keys] with anthropic = \"...\".")
    providers = {_in_file(name) for name in PROVIDERS}
    unknown = sorted(set(content.get("provider_keys", {})) - providers)
    if unknown:
        raise ConfigError(
            f"{path} has the unknown key 'provider_keys.{unknown[0]}'; known are: {', '.join(sorted(providers))}."
        )
    return content


def _in_file(variable: str) -> str:
    """Give the file's name for a provider whose key is in this variable."""
    return variable.removesuffix("_API_KEY").lower()


def _matching(value: Any, shape: re.Pattern[str], rule: str, where: str) -> str:
    text = value.strip() if isinstance(value, str) else value
    if not isinstance(text, str) or not shape.fullmatch(text):
        raise ConfigError(
            f"{where} is {value!r}, but {rule} is expected.", next_steps=[f"correct {where} and run the command again"]
        )
    return text


def _networks(value: Any, where: str) -> frozenset[str]:
    if value is None:
        return frozenset()
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list) or not 1 <= len(items) <= MOST_NETWORKS:
        raise ConfigError(f"{where} must be 1 to {MOST_NETWORKS} networks, such as 203.0.113.7,198.51.100.0/24.")
    found = set()
    for item in items:
        try:
            network = ip_network(str(item).strip(), strict=False)
        except ValueError:
            raise ConfigError(
                f"{where} has {item!r}, which is neither an address nor a network.",
                next_steps=["give addresses or networks, such as 203.0.113.7,198.51.100.0/24,2001:db8::/48"],
            ) from None
        address, _, _ = str(item).strip().partition("/")
        if ip_address(address) != network.network_address:
            raise ConfigError(
                f"{where} has {item!r}, which is an address within a network.",
                next_steps=[f"say {network} for the network, or {address} for the address alone"],
            )
        found.add(str(network))
    return frozenset(found)


def _pull_ca(value: Any, where: str) -> str | None:
    if value is None or value == "none":
        return None if value is None else ""
    import ssl  # noqa: PLC0415  # hardly anybody needs it, and it takes long to load

    try:
        text = expanded(str(value)).read_text("ascii")
        # What cannot be read here, Caddy could not there. (Nothing at all would be taken for the system's own.)
        ssl.create_default_context(cadata=text or "none")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{where} names {value}, which cannot be read as a certificate (PEM): {error}.",
            next_steps=["give Cloudflare's authenticated_origin_pull_ca.pem, or 'none'"],
        ) from None
    if "PRIVATE KEY" in text or len(text) > MOST_PEM:
        raise ConfigError(f"{where} names {value}, which is not the certificate of an authority alone.")
    return text


def _ssh_proxy(lookup: _Lookup, *, sandbox: bool) -> tuple[Any, str]:
    return (lookup.flags.get("ssh_proxy"), "--ssh-proxy") if sandbox else lookup.find("ssh_proxy", "CLAWDET_SSH_PROXY")


def _command(value: Any, where: str) -> str | None:
    if value is None or value == "none":
        return None
    if not isinstance(value, str) or not value.strip() or re.search(r"[\x00-\x1f\x7f]", value):
        raise ConfigError(f"{where} must be a command in one line, such as 'ssh -W %h:%p jump.example.com', or 'none'.")
    if unknown := re.search(r"%(?!%|h|p)", re.sub("%%", "", value)):
        raise ConfigError(
            f"{where} has {value[unknown.start() :][:2]!r}: %h and %p stand for the address and the port, %% for %.",
        )
    return value.strip()


def _bundle(value: Any, where: str) -> Path | Secret | None:
    if value is None or value == "none":
        return None
    text = str(value)
    # Nothing of it is ever shown: it may be a signed address, or carry a mirror's password.
    if not isinstance(value, str | Path) or not text or text.startswith(("-", "#")):
        raise ConfigError(f"{where} is neither the file nor the address of a bundle, nor 'none'.")
    if not re.match(r"[A-Za-z+]+:/", text):
        return expanded(text)
    if not _BUNDLE_URL.fullmatch(text) or not _is_unambiguous(text):
        raise ConfigError(
            f"{where} is not an address that a bundle can be taken from.",
            next_steps=[
                "give https://HOST/NAME.tar.zst, with its manifest beside it (.json), or ...#sha256=DIGEST",
                "write / as %2F, @ as %40, : as %3A and % as %25 in a user or password",
            ],
        )
    return Secret(text, _hidden_in(text))


def _is_unambiguous(address: str) -> bool:
    """Return whether an address has a host, and nothing in it can be a password that was not taken for one."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return False
    user, at, _ = parts.netloc.rpartition("@")
    # `user:123/rest@host` has a port and a path.
    cut_off = not at and port is not None and re.search(r"[^/]@", parts.path)
    return bool(parts.hostname) and "@" not in user and not cut_off


def _hidden_in(address: str) -> set[str]:
    """Return what of an address is masked wherever it is written: user and password, and the query of a signed one."""
    parts = urlsplit(address)
    user = parts.netloc.rpartition("@")[0]
    # A user without a password is a token.
    found = {user, unquote(user), parts.password or user, unquote(parts.password or user), parts.query}
    found.update(value for pair in parts.query.split("&") for value in pair.split("=")[1:])
    return found - {""}


def _seconds(value: Any, where: str, *, least: int, default: float) -> float:
    return _number(value, where, "seconds", least=least, most=86400, default=default)


def _number(value: Any, where: str, unit: str, *, least: int, most: int, default: float) -> float:
    if value is None:
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not least <= number <= most:
        raise ConfigError(f"{where} is {value!r}, but a number of {unit} from {least} to {most} is expected.")
    return number
