"""The clouds and the servers, as values of ours: nothing here writes state, prints or asks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clawdet_cli.adapters.cloudflare import Cloudflare
    from clawdet_cli.adapters.hetzner import Hetzner
    from clawdet_cli.adapters.retry import Watch
    from clawdet_cli.model import Deadline
    from clawdet_cli.settings import Settings


@dataclass(frozen=True)
class Clouds:
    """Both clouds, within one command's deadline."""

    hetzner: "Hetzner"
    cloudflare: "Cloudflare"

    def calls(self) -> dict[str, int]:
        """Give how many calls were made to each cloud, repeated ones included."""
        return {"hetzner": self.hetzner.budget.calls, "cloudflare": self.cloudflare.budget.calls}

    def close(self) -> None:
        """Close the connections that are kept for further calls."""
        self.hetzner.close()
        self.cloudflare.close()


def connect(settings: "Settings", deadline: "Deadline", *, watch: "Watch | None" = None) -> Clouds:
    """Make both clients; no call is made yet. Raises ConfigError when a token is missing.

    `watch` is told in a few words whenever a call has to wait, such as for a limit of requests.
    """
    hetzner_token = settings.required_hetzner_token()
    cloudflare_token = settings.required_cloudflare_token()
    # The SDKs take most of a second to import: only commands that call the clouds pay for it.
    from clawdet_cli.adapters.cloudflare import Cloudflare
    from clawdet_cli.adapters.hetzner import Hetzner

    return Clouds(
        Hetzner(settings.endpoints.hetzner_url, hetzner_token, deadline, watch=watch),
        Cloudflare(settings.endpoints.cloudflare_url, cloudflare_token, deadline, watch=watch),
    )
