"""What a VPS is told before anybody can reach it."""

import base64
import gzip
import json
from collections.abc import Mapping

from clawdet_cli import bootstrap
from clawdet_cli.model import HostKey
from clawdet_cli.secret import Secret

LIMIT = 32 * 1024
"""Bytes that Hetzner takes (API reference, "Create a Server")."""


def user_data(host_key: HostKey, prepare: Mapping[str, str]) -> Secret:
    """Write the cloud-config: the host key to be pinned, and the script with what it is to install.

    JSON is YAML; so no value can break out of its place. user_data stays readable on the VPS: but for the host key,
    which is replaced over the first connection, nothing secret may go in. It is packed, and cloud-init unpacks it.
    Where addresses of thousands of characters leave no room for the script, the VPS gets it once SSH is up.
    """
    values = {**prepare, "lock_within": str(bootstrap.LOCK_SECONDS)}
    files = {
        bootstrap.SCRIPT_NAME: bootstrap.script(),
        "input": bootstrap.input_file(values),
        bootstrap.BOOT_MARK: bootstrap.boot_mark(prepare).encode(),
    }
    config = {
        "ssh_deletekeys": True,
        "disable_root": False,
        "ssh_pwauth": False,
        "package_update": False,
        "write_files": [
            {"path": f"{bootstrap.BOOT_FOLDER}/{name}", "permissions": "0600", "content": content.decode()}
            for name, content in files.items()
        ],
        # Comes before write_files, whose folder it makes; what it starts comes after. bootcmd is for every boot.
        "bootcmd": [["cloud-init-per", "once", "clawdet", "sh", "-c", bootstrap.start_at_boot()]],
        # Last: whatever quotes the beginning of it, packed, does not give the key away.
        "ssh_keys": {"ed25519_private": host_key.private.reveal(), "ed25519_public": host_key.public},
    }
    packed = _packed(config)
    if len(packed) > LIMIT:
        packed = _packed({key: value for key, value in config.items() if key not in ("write_files", "bootcmd")})
    return Secret(packed)


def _packed(config: Mapping[str, object]) -> str:
    text = b"#cloud-config\n" + json.dumps(config).encode() + b"\n"
    return base64.b64encode(gzip.compress(text, mtime=0)).decode()
