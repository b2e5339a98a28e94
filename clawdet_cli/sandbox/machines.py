"""The seam between the emulated provider and whatever plays its servers."""

from dataclasses import dataclass
from typing import Protocol


class MachinesError(Exception):
    """A machine could not be made, started, stopped or removed."""


class OutOfAddressesError(MachinesError):
    """No public IPv4 is free."""


@dataclass(frozen=True)
class MachineSpec:
    """What a server is made from at its first boot."""

    server_id: int
    name: str
    ipv4: str  # "" when the server was ordered without one, or got none
    disk_gigabytes: int
    image: str  # name of the system image; for a snapshot, that of the image it descends from
    user_data: str
    public_keys: tuple[str, ...]


class Machines(Protocol):
    """The servers behind the emulated API.

    `boot`, `power_off` and `remove` are called for one server one at a time, but may be cancelled midway and called for
    a server that is already so, or that a restart of the process has forgotten: each of them leads to its end from
    whatever it finds.
    """

    def claim_address(self) -> str:
        """Return a free public IPv4; raise OutOfAddressesError when there is none."""

    def release_address(self, ipv4: str) -> None:
        """Give a claimed address back."""

    async def boot(self, spec: MachineSpec) -> None:
        """Power on, making the disk at the first boot; return when powered, not when SSH answers."""

    async def power_off(self, server_id: int, *, graceful: bool) -> None:
        """Power off; `graceful` asks the guest to shut down first. The disk and the address stay."""

    async def remove(self, server_id: int) -> None:
        """Power off and delete the disk. The address stays claimed."""
