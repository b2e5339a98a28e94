"""How a person looks at a name of the sandbox, which resolves nowhere."""

import base64
import hashlib
import shlex
import socket
import ssl
from collections.abc import Iterator


def commands(host: str, edge_address: str, ca_file: str) -> Iterator[str]:
    """Give a curl line and a browser line that go to the sandbox's edge and trust its certificate."""
    ip, _, port = edge_address.rpartition(":")
    way = f"--resolve {host}:443:{ip}" if port == "443" else f"--connect-to {host}:443:{ip}:{port}"
    pin = _edge_key_hash(host, ip, int(port), ca_file)
    trust = f"--ignore-certificate-errors-spki-list={pin} " if pin else ""
    yield f"  curl --cacert {shlex.quote(ca_file)} {way} https://{host}/"
    yield (
        f'  chromium --user-data-dir="$(mktemp -d)" --host-resolver-rules="MAP {host} {ip}:{port}"'
        f" {trust}https://{host}/"
    )
    if not pin:
        yield f"  (the browser warns of the certificate: accept it, or import {ca_file} as an authority)"


def _edge_key_hash(host: str, ip: str, port: int, ca_file: str) -> str | None:
    """Give what Chromium names a key by: base64 of the SHA-256 of the public key that the edge shows for the host.

    None when the edge does not answer, or not with a certificate of this sandbox. The edge makes a new key whenever
    it starts, so this is asked each time.
    """
    from cryptography import x509  # not above: it takes longer to load than most commands run
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        context = ssl.create_default_context(cafile=ca_file)
        with (
            socket.create_connection((ip, port), timeout=3) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            der = connection.getpeercert(binary_form=True)
    except OSError:
        return None
    key = x509.load_der_x509_certificate(der or b"").public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(spki).digest()).decode()
