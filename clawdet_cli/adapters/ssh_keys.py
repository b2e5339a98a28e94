"""SSH keys: the operator's, and host keys that are made before their server exists."""

import base64
import hashlib
import os
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from clawdet_cli.errors import ConfigError
from clawdet_cli.model import HostKey
from clawdet_cli.private import new_private_file, private_folder
from clawdet_cli.secret import Secret

_OTHER_KEY = "or use a key of clawdet's own: leave out --ssh-key and CLAWDET_SSH_KEY"


def make_host_key() -> HostKey:
    """Make an Ed25519 host key."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return HostKey(private=Secret(_openssh(key).decode()), public=public.decode())


def operator_key(path: Path, *, make: bool = False, of_server: bool = False) -> str:
    """Give the public half of the operator's key; `make` one (0600, in a 0700 folder) where none is.

    `of_server`: a server exists that lets in this key, so that a new one is of no use.

    Raises ConfigError when the file cannot serve: missing, encrypted, open to others, or no private key.
    """
    if make and not path.exists():
        _make(path)
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except OSError as error:
        steps = [f"ssh-keygen -t ed25519 -N '' -f {path}", _OTHER_KEY]
        if of_server:
            steps = [
                "use the key that the server was made with: put it there again, or name it with --ssh-key FILE",
                "or destroy and provision again",
            ]
        raise ConfigError(f"The SSH key {path} cannot be read: {error.strerror}.", next_steps=steps) from None
    if mode & 0o077:
        # OpenSSH would refuse it too, but only later, at `clawdet ssh`.
        raise ConfigError(f"The SSH key {path} can be read by others.", next_steps=[f"chmod 600 {path}"])
    load = serialization.load_ssh_private_key if b"BEGIN OPENSSH" in content else serialization.load_pem_private_key
    try:
        key = load(content, None)
    except TypeError:  # what cryptography raises when a password is missing
        raise ConfigError(
            f"The SSH key {path} is protected by a passphrase, which clawdet never asks for.",
            next_steps=["choose a key without one: --ssh-key FILE", _OTHER_KEY],
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{path} is not a private SSH key that can be read.",
            details=[str(error)],
            next_steps=["choose another: --ssh-key FILE", _OTHER_KEY],
        ) from None
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def fingerprint(public: str) -> str:
    """Give the fingerprint of a public key as OpenSSH prints it, `SHA256:...`."""
    return "SHA256:" + base64.b64encode(_digest(public)).decode().rstrip("=")


def pin_label(public: str) -> str:
    """Give the base32 SHA-256 of a public key: 52 characters that a Hetzner label may hold."""
    return base64.b32encode(_digest(public)).decode().rstrip("=")


def is_host_key(text: str) -> bool:
    """Say whether a text is an Ed25519 public key without a comment, `ssh-ed25519 AAAA...`."""
    try:
        key = serialization.load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        return False
    return (
        isinstance(key, Ed25519PublicKey) and text == key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    )


def known_hosts_line(alias: str, public: str) -> str:
    """Give the line of a known_hosts file that pins this key for an alias."""
    return f"{alias} {public}"


def _digest(public: str) -> bytes:
    return hashlib.sha256(base64.b64decode(public.split()[1])).digest()


def _openssh(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def _make(path: Path) -> None:
    try:
        private_folder(path.parent)
        # Complete before it has its name, and never over another's: two commands may start together.
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        descriptor = new_private_file(temporary)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123  # Path.open() takes no descriptor
                file.write(_openssh(Ed25519PrivateKey.generate()))
                file.flush()
                # Servers are about to be ordered that let in this key only: it has to outlive a power cut.
                os.fsync(descriptor)
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    except OSError as error:
        raise ConfigError(
            f"No SSH key can be made at {path}: {error.strerror}.",
            next_steps=["choose another state folder: --state FOLDER", "or a key of your own: --ssh-key FILE"],
        ) from None
