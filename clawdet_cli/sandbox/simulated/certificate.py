"""The TLS key of a simulated server, its certificate request, and the look at what came back."""

import base64
import binascii
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from clawdet_cli.sandbox.simulated import disk as at
from clawdet_cli.sandbox.simulated.disk import SimulatedDisk
from clawdet_cli.sandbox.simulated.input import ScriptError

_MOST_COMMON_NAME = 64  # X.520


def request(disk: SimulatedDisk, host: str) -> str:
    """Return the request for a host, made with the machine's own key; the same one at every call."""
    if not disk.exists(at.TLS_KEY):
        made = ec.generate_private_key(ec.SECP256R1())
        pem = made.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        disk.write(at.TLS_KEY, pem.decode())
    known = disk.text(at.TLS_REQUEST)
    if known and _names(x509.load_pem_x509_csr(known.encode())) == [host]:
        return known
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, host)] if len(host) <= _MOST_COMMON_NAME else []
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name(subject))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(_key(disk), hashes.SHA256())
    )
    disk.write(at.TLS_REQUEST, csr.public_bytes(serialization.Encoding.PEM).decode())
    return disk.text(at.TLS_REQUEST)


def decoded(text: str) -> str:
    """Return the PEM text that the input carries; raise ScriptError when it is not base64."""
    try:
        return base64.b64decode(text, validate=True).decode("ascii", "replace")
    except binascii.Error:
        raise ScriptError("the certificate is not base64") from None


def check(disk: SimulatedDisk, pem: str, host: str) -> None:
    """Raise ScriptError when a certificate cannot serve this host with the machine's key."""
    try:
        leaf = x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        leaf = None
    if leaf is None or "PRIVATE KEY" in pem:
        raise ScriptError("the certificate is not a PEM certificate")
    if not disk.exists(at.TLS_KEY) or leaf.public_key() != _key(disk).public_key():
        raise ScriptError(
            "the certificate does not belong to the key on this machine; run certificate-request and have it signed"
        )
    if not {host, "*." + host.partition(".")[2]} & set(_names(leaf)):
        raise ScriptError(f"the certificate is not for {host}")
    if leaf.not_valid_after_utc <= datetime.now(UTC):
        raise ScriptError("the certificate has expired")


def evidence(disk: SimulatedDisk) -> tuple[str, str]:
    """Return the SHA-256 of the installed certificate and when it expires; both empty when there is none."""
    if not disk.exists(at.TLS_CERTIFICATE):
        return "", ""
    leaf = x509.load_pem_x509_certificate(disk.text(at.TLS_CERTIFICATE).encode())
    return leaf.fingerprint(hashes.SHA256()).hex(), leaf.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")


def _key(disk: SimulatedDisk) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(disk.text(at.TLS_KEY).encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("the TLS key of a simulated server is always an elliptic-curve key")
    return key


def _names(holder: x509.Certificate | x509.CertificateSigningRequest) -> list[str]:
    try:
        names = holder.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.DNSName)
