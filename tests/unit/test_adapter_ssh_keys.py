import base64
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)
from hcloud.helpers.labels import LabelValidator

from clawdet_cli.adapters.ssh_keys import fingerprint, known_hosts_line, make_host_key, operator_key, pin_label
from clawdet_cli.errors import ConfigError

PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"


def test_a_host_key_is_a_pair_and_hides_its_private_half() -> None:
    key = make_host_key()
    loaded = load_ssh_private_key(key.private.reveal().encode(), None)
    shown = loaded.public_key().public_bytes_raw()  # type: ignore[union-attr]  # an Ed25519 key has it
    assert base64.b64decode(key.public.split()[1]).endswith(shown)
    assert key.public.startswith("ssh-ed25519 ")
    assert "PRIVATE" not in repr(key)
    assert make_host_key() != key


def test_a_fingerprint_is_what_openssh_prints(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(PUBLIC)
    told = subprocess.run(
        ["ssh-keygen", "-l", "-f", tmp_path / "key.pub"], capture_output=True, text=True, check=True
    ).stdout
    assert fingerprint(PUBLIC) in told.split()
    assert fingerprint(PUBLIC + " a comment") == fingerprint(PUBLIC)


def test_a_pin_fits_into_a_label() -> None:
    assert LabelValidator.validate({"host-key": pin_label(PUBLIC)})
    assert len(pin_label(PUBLIC)) == 52


def test_a_known_hosts_line_pins_the_key() -> None:
    assert known_hosts_line("clawdet-alice", PUBLIC) == f"clawdet-alice {PUBLIC}"


class TestOperatorKey:
    def test_is_made_private_and_then_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "ssh" / "id_ed25519"
        first = operator_key(path, make=True)
        assert first.startswith("ssh-ed25519 ")
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert operator_key(path, make=True) == first
        assert [found.name for found in path.parent.iterdir()] == ["id_ed25519"]

    def test_is_the_same_for_two_that_make_it_together(self, tmp_path: Path) -> None:
        program = (
            "import sys; from pathlib import Path; from clawdet_cli.adapters.ssh_keys import operator_key;"
            " print(operator_key(Path(sys.argv[1]), make=True))"
        )
        path = str(tmp_path / "id_ed25519")
        both = [
            subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True) for _ in range(2)
        ]
        told = {process.communicate(timeout=30)[0] for process in both}
        assert told == {operator_key(Path(path)) + "\n"}

    def test_is_not_made_where_a_key_of_ones_own_was_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read: No such file") as caught:
            operator_key(tmp_path / "mine")
        assert "ssh-keygen" in caught.value.next_steps[0]

    def test_is_looked_for_where_a_server_lets_in_no_new_one(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            operator_key(tmp_path / "mine", of_server=True)
        assert "the key that the server was made with" in caught.value.next_steps[0]
        assert "ssh-keygen" not in " ".join(caught.value.next_steps)

    def test_cannot_be_made_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "ssh").write_text("")
        with pytest.raises(ConfigError, match="No SSH key can be made"):
            operator_key(tmp_path / "ssh" / "id", make=True)

    @pytest.mark.parametrize("form", [PrivateFormat.OpenSSH, PrivateFormat.TraditionalOpenSSL])
    def test_may_be_rsa_in_either_form(self, tmp_path: Path, form: PrivateFormat) -> None:
        path = tmp_path / "id_rsa"
        key = rsa.generate_private_key(65537, 2048)
        path.write_bytes(key.private_bytes(Encoding.PEM, form, NoEncryption()))
        path.chmod(0o600)
        assert operator_key(path).startswith("ssh-rsa ")

    @pytest.mark.parametrize("form", [PrivateFormat.OpenSSH, PrivateFormat.PKCS8])
    def test_with_a_passphrase_is_refused(self, tmp_path: Path, form: PrivateFormat) -> None:
        path = tmp_path / "id_rsa"
        key = rsa.generate_private_key(65537, 2048)
        path.write_bytes(key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"word")))
        path.chmod(0o600)
        with pytest.raises(ConfigError, match="passphrase"):
            operator_key(path)

    def test_that_others_can_read_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "id"
        operator_key(path, make=True)
        path.chmod(0o640)
        with pytest.raises(ConfigError, match="read by others") as caught:
            operator_key(path)
        assert caught.value.next_steps == (f"chmod 600 {path}",)

    @pytest.mark.parametrize(
        "content",
        [b"", PUBLIC.encode(), b"-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense\n-----END OPENSSH PRIVATE KEY-----\n"],
        ids=["empty", "public half", "garbled"],
    )
    def test_that_is_none_is_refused(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "id"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match="is not a private SSH key"):
            operator_key(path)
