"""Where the clouds are and who asks: real accounts by the environment, or a running sandbox."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from clawdet_cli import operations, settings
from clawdet_cli.errors import ConfigError
from clawdet_cli.settings import Settings


@dataclass(frozen=True)
class Place:
    """Two accounts and a zone."""

    settings: Settings
    sandbox: Path | None
    """The state folder of the sandbox that stands for both clouds; None for the real ones."""
    read_only_token: str | None
    """Of Hetzner's project, without the right to write."""
    crippled_token: str | None
    """Of Cloudflare, with Zone Read alone."""

    @property
    def zone(self) -> str:
        """The zone's name."""
        return self.settings.required_zone()

    @property
    def tokens(self) -> tuple[str, str]:
        """Hetzner's token and Cloudflare's."""
        return self.settings.required_hetzner_token().reveal(), self.settings.required_cloudflare_token().reveal()

    @property
    def secrets(self) -> tuple[str, ...]:
        """All that must not be in an answer that is kept."""
        return *self.tokens, self.read_only_token or "", self.crippled_token or ""


def find(environment: Mapping[str, str], *, zone: str | None, sandbox: Path | None) -> Place:
    """Read where the clouds are. Raises ConfigError for what is missing."""
    info = None
    if sandbox is not None:
        from clawdet_cli.sandbox.info import Files  # noqa: PLC0415  # an extra, which real accounts need not

        found = Files(sandbox / "sandbox" / "cloud").read_info()
        if found is None:
            raise ConfigError(f"No sandbox runs in {sandbox}.", next_steps=["clawdet sandbox up"])
        info = asdict(found)
    loaded = settings.load(
        {"zone": zone, "state": str(sandbox) if sandbox else None},
        environment,
        default_openclaw=operations.default_openclaw(),
        sandbox=info,
    )
    place = Place(
        settings=loaded,
        sandbox=sandbox,
        read_only_token=info["hetzner_read_token"] if info else environment.get("HCLOUD_READONLY_TOKEN"),
        crippled_token=environment.get("CLOUDFLARE_CRIPPLED_TOKEN"),
    )
    _ = (place.zone, place.tokens)  # what is missing is said before anything is done
    return place
