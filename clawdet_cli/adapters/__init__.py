"""The clouds and the servers, as values of ours: nothing here writes state, prints or asks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from clawdet_cli.adapters.cloudflare import Cloudflare
    from clawdet_cli.adapters.fleet_cloudflare import FleetCloudflare
    from clawdet_cli.adapters.fleet_hetzner import FleetHetzner
    from clawdet_cli.adapters.hetzner import Hetzner
    from clawdet_cli.adapters.retry import Fence, Watch
    from clawdet_cli.adapters.shared import Once
    from clawdet_cli.model import Deadline
    from clawdet_cli.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True)
class Clouds:
    """Both clouds, within the deadline of one run."""

    hetzner: "Hetzner"
    cloudflare: "Cloudflare"

    def of_run(self, deadline: "Deadline", watch: "Watch", fence: "Fence") -> "Clouds":
        """Return them for a run with its own deadline; `watch` is told when a call has to wait.

        `fence` is asked before each sending of a change.
        """
        return Clouds(self.hetzner.within(deadline, watch, fence), self.cloudflare.within(deadline, watch, fence))

    def once(self, name: str, find: Callable[[], T]) -> T:  # noqa: ARG002 - runs that share need it
        """Give what `find` gives; runs that share the clouds have one of them find it for all."""
        return find()

    def calls(self) -> dict[str, int]:
        """Give how many calls were made to each cloud, repeated ones included."""
        return {"hetzner": self.hetzner.budget.calls, "cloudflare": self.cloudflare.budget.calls}

    def close(self) -> None:
        """Close the connections that are kept for further calls."""
        self.hetzner.close()
        self.cloudflare.close()


@dataclass(frozen=True)
class _RunsClouds(Clouds):
    """Both clouds as one of many runs has them: calls are shared, and so are nobody's; others may still need them."""

    known: "Once"

    def once(self, name: str, find: Callable[[], T]) -> T:
        return self.known.get(name, find, deadline=self.hetzner.deadline)

    def calls(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class SharedClouds:
    """Both clouds, for many runs of one command: one client, one budget and shared reads for each."""

    hetzner: "FleetHetzner"
    cloudflare: "FleetCloudflare"
    known: "Once"

    def of_run(self, deadline: "Deadline", watch: "Watch", fence: "Fence") -> Clouds:
        """Return them for a run with its own deadline; `watch` is told when a call has to wait.

        `fence` is asked before each sending of a change.
        """
        return _RunsClouds(
            self.hetzner.within(deadline, watch, fence), self.cloudflare.within(deadline, watch, fence), self.known
        )

    def calls(self) -> dict[str, int]:
        """Give how many calls all runs made to each cloud."""
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
        Hetzner(settings.endpoints.hetzner_url, hetzner_token, deadline, watch=watch, network=settings.network),
        Cloudflare(
            settings.endpoints.cloudflare_url,
            cloudflare_token,
            deadline,
            watch=watch,
            network=settings.network,
            zone_id=settings.zone_id,
        ),
    )


def share(settings: "Settings", deadline: "Deadline") -> SharedClouds:
    """Make both clients for many runs; no call is made yet. Raises ConfigError when a token is missing."""
    hetzner_token = settings.required_hetzner_token()
    cloudflare_token = settings.required_cloudflare_token()
    from clawdet_cli.adapters.fleet_cloudflare import FleetCloudflare
    from clawdet_cli.adapters.fleet_hetzner import FleetHetzner
    from clawdet_cli.adapters.shared import Once

    return SharedClouds(
        FleetHetzner(settings.endpoints.hetzner_url, hetzner_token, deadline, network=settings.network),
        FleetCloudflare(
            settings.endpoints.cloudflare_url,
            cloudflare_token,
            deadline,
            network=settings.network,
            zone_id=settings.zone_id,
        ),
        Once(),
    )
