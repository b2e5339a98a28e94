"""What a running sandbox says of itself, and where its files are."""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clawdet_cli.sandbox.errors import SandboxError
from clawdet_cli.sandbox.process import start_time


@dataclass(frozen=True)
class SandboxInfo:
    """How to reach a running sandbox, and as whom."""

    hetzner_url: str  # ends in /v1
    hetzner_token: str = field(repr=False)
    hetzner_read_token: str = field(repr=False)
    cloudflare_url: str  # ends in /client/v4
    cloudflare_token: str = field(repr=False)
    zone: str
    edge_address: str  # ip:port
    dns_address: str  # ip:port
    ca_file: str  # PEM of the authority behind the edge's certificates
    origin_ca_file: str
    origin_pull_ca_file: str  # PEM of the authority behind the certificate that the edge shows to origins
    dial_file: str  # JSON {"ip:port": "ip:port"}, rewritten as servers come and go; "" when nothing is mapped
    artifacts: Mapping[str, Any]  # what a server downloads: locations as it sees them, and digests
    servers: str  # "real" or "simulated"
    guest: str
    boot_seconds: float
    pid: int
    folder: str
    control_token: str = field(default="", repr=False)  # for what is below /_sandbox
    control_header_file: str = ""  # the header with it, for `curl -H @FILE`


@dataclass(frozen=True)
class Files:
    """The files in a sandbox's own folder."""

    folder: Path

    @property
    def info(self) -> Path:
        """What the running sandbox says of itself."""
        return self.folder / "sandbox.json"

    @property
    def lock(self) -> Path:
        """Held by the running process, whose pid and start time it contains."""
        return self.folder / "daemon.lock"

    @property
    def log(self) -> Path:
        """What the process has to say."""
        return self.folder / "daemon.log"

    @property
    def ledger(self) -> Path:
        """The state of everything emulated."""
        return self.folder / "ledger.json"

    @property
    def artifacts(self) -> Path:
        """The manifest of the downloads, for the process to pass on."""
        return self.folder / "artifacts.json"

    @property
    def dial(self) -> Path:
        """The dial map."""
        return self.folder / "dial.json"

    @property
    def control_header(self) -> Path:
        """The header that the control routes ask for, as curl reads it from a file."""
        return self.folder / "control-header"

    @property
    def servers(self) -> Path:
        """One folder for each server."""
        return self.folder / "servers"

    @property
    def edge_authority(self) -> Path:
        """The authority behind the edge's certificates."""
        return self.folder / "edge-ca"

    @property
    def origin_authority(self) -> Path:
        """The Origin CA."""
        return self.folder / "origin-ca"

    @property
    def pull_authority(self) -> Path:
        """The authority behind the edge's certificate for Authenticated Origin Pulls."""
        return self.folder / "origin-pull-ca"

    @property
    def everything(self) -> tuple[Path, ...]:
        """All that a sandbox ever writes into its folder."""
        named = (self.info, self.lock, self.log, self.ledger, self.artifacts, self.dial, self.control_header)
        return (
            *named,
            *(path.with_suffix(".new") for path in named),
            self.servers,
            self.servers.with_name("deleted"),
            self.edge_authority,
            self.origin_authority,
            self.pull_authority,
        )

    @property
    def mark(self) -> str:
        """Eight hexadecimal digits that stand for this folder in names elsewhere on the machine."""
        return hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:8]

    def tag(self, number: int) -> str:
        """Return what every namespace, control group and machine of the sandbox with this number begins with."""
        return f"clawdet{number}-{self.mark}"

    def daemon(self) -> int | None:
        """Return the pid of the sandbox's process, or None when it does not run."""
        try:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, _, started = os.read(descriptor, 100).decode().partition(" ")
            # Written a moment after it is locked.
            if pid and (started == "None" or str(start_time(int(pid))) == started):
                return int(pid)
        finally:
            os.close(descriptor)
        return None

    def read_info(self) -> SandboxInfo | None:
        """Return what the running sandbox says of itself; None when it does not run, or not yet.

        Raises SandboxError when another version of the program wrote it.
        """
        pid = self.daemon()
        try:
            info = SandboxInfo(**json.loads(self.info.read_text()))
        except FileNotFoundError:
            return None
        except (TypeError, ValueError):
            raise _unreadable(self.info) from None
        return info if info.pid == pid else None

    def read_ledger(self) -> dict[str, Any]:
        """Return the state of everything emulated, empty where there is none; raise SandboxError when it is damaged."""
        try:
            content: dict[str, Any] = json.loads(self.ledger.read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            raise _unreadable(self.ledger) from None
        return content

    def write_info(self, info: SandboxInfo) -> None:
        """Say that the sandbox runs."""
        write_private(self.info, json.dumps(asdict(info), indent=1))


def _unreadable(path: Path) -> SandboxError:
    return SandboxError(f"{path} cannot be read", "remove the sandbox and start anew: clawdet sandbox down")


def write_private(path: Path, content: str) -> None:
    """Replace a file at once by one that nobody else could ever read."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        os.fchmod(file.fileno(), 0o600)  # whatever the umask takes from the owner
        file.write(content)
    temporary.replace(path)
