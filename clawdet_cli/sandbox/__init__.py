"""A cloud on this machine: emulated APIs, an edge, name servers, and servers that are real or simulated.

It is a process of its own, one for each folder, and knows nothing of the product that uses it.
"""

from clawdet_cli.sandbox.errors import SandboxError
from clawdet_cli.sandbox.info import SandboxInfo
from clawdet_cli.sandbox.lifecycle import SandboxStatus, ServerStatus, down, info, local_downloads, status, up
from clawdet_cli.sandbox.real.artifacts import CaddyWanted, NodeWanted

__all__ = [
    "CaddyWanted",
    "NodeWanted",
    "SandboxError",
    "SandboxInfo",
    "SandboxStatus",
    "ServerStatus",
    "down",
    "info",
    "local_downloads",
    "status",
    "up",
]
