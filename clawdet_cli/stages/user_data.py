"""What a VPS is told before anybody can reach it."""

import base64
import bz2
import functools
import json
import zlib
from collections.abc import Mapping

from clawdet_cli import bootstrap
from clawdet_cli.model import HostKey
from clawdet_cli.secret import Secret

LIMIT = 32 * 1024
"""Bytes that Hetzner takes (API reference, "Create a Server")."""

GZIP = 16 + zlib.MAX_WBITS
"""What tells zlib to write gzip's format; without a time, so that equal content is equal."""


def user_data(host_key: HostKey, prepare: Mapping[str, str]) -> Secret:
    """Write the cloud-config: the host key to be pinned, and the script with what it is to install.

    JSON is YAML; so no value can break out of its place. user_data stays readable on the VPS: but for the host key,
    which is replaced over the first connection, nothing secret may go in. It is packed, and cloud-init unpacks it.
    Where addresses of thousands of characters leave no room for the script, the VPS gets it once SSH is up.
    """
    values = {**prepare, "lock_within": str(bootstrap.LOCK_SECONDS)}
    files = {
        bootstrap.PACKED_SCRIPT: {"encoding": "b64", "content": _packed_script(bootstrap.script())},
        "input": {"content": bootstrap.input_file(values).decode()},
        bootstrap.BOOT_MARK: {"content": bootstrap.boot_mark(prepare)},
    }
    config = {
        "ssh_deletekeys": True,
        "disable_root": False,
        "ssh_pwauth": False,
        "package_update": False,
        "write_files": [
            {"path": f"{bootstrap.BOOT_FOLDER}/{name}", "permissions": "0600", **content}
            for name, content in files.items()
        ],
        # Comes before write_files, whose folder it makes; what it starts comes after. bootcmd is for every boot.
        "bootcmd": [["cloud-init-per", "once", "clawdet", "sh", "-c", bootstrap.start_at_boot()]],
    }
    # Last: whatever quotes the beginning of it, packed, does not give the key away.
    keys = {"ssh_keys": {"ed25519_private": host_key.private.reveal(), "ed25519_public": host_key.public}}
    packed = _packed(json.dumps(config), json.dumps(keys))
    if len(packed) > LIMIT:
        bare = {key: value for key, value in config.items() if key not in ("write_files", "bootcmd")}
        packed = _packed(json.dumps(bare), json.dumps(keys))
    return Secret(packed)


def _packed(config: str, keys: str) -> str:
    """Pack the members of two JSON objects as one cloud-config."""
    begun, packing = _begun(config)
    rest = packing.copy()
    ending = rest.compress(f", {keys[1:]}\n".encode()) + rest.flush()
    return base64.b64encode(begun + ending).decode()


@functools.lru_cache(maxsize=2)
def _packed_script(script: bytes) -> str:
    return base64.b64encode(bz2.compress(script)).decode()


@functools.lru_cache(maxsize=2)
def _begun(config: str) -> "tuple[bytes, zlib._Compress]":
    """Pack what is the same for all users of a command: to pack the script takes longer than all else of an order."""
    packing = zlib.compressobj(level=9, wbits=GZIP)
    return packing.compress(f"#cloud-config\n{config[:-1]}".encode()), packing
