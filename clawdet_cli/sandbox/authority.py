"""Throw-away certificate authorities: one plays the Origin CA, one the public CA behind the edge."""

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS = 30 * 365  # has to outlive the longest leaf of 5,475 days
BACKDATE = dt.timedelta(minutes=5)  # a guest whose clock runs a little behind must not call a new leaf "not yet valid"


@dataclass(frozen=True)
class Issued:
    """A signed leaf certificate."""

    certificate: str  # PEM
    serial: int
    not_after: dt.datetime


class Authority:
    """A certificate authority whose key and certificate live in one folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._key_path = folder / "ca.key"
        self._certificate_path = folder / "ca.pem"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._certificate_path.exists():
            self._create(name)
        key = serialization.load_pem_private_key(self._key_path.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{self._key_path} does not hold an elliptic-curve key")
        self._key = key
        self._certificate = x509.load_pem_x509_certificate(self._certificate_path.read_bytes())

    @property
    def ca_path(self) -> Path:
        """Where the CA certificate lies, for programs that want a file."""
        return self._certificate_path

    @property
    def ca_pem(self) -> str:
        """The CA certificate as PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def sign_csr(self, csr_pem: str, hostnames: Sequence[str], days: float) -> Issued:
        """Sign the public key of a CSR for the given host names; the names inside the CSR do not count.

        Raises ValueError when the CSR cannot be read or its signature is wrong.
        """
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        if not csr.is_signature_valid:
            raise ValueError("the signature of the certificate request is not valid")
        key = csr.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            raise ValueError("the key of the certificate request is neither ECDSA nor RSA")  # noqa: TRY004  # the caller hands in text, not a key
        return self._sign(key, hostnames, days)

    def issue_server(self, hostnames: Sequence[str], days: float = 90) -> tuple[str, str]:
        """Make a key and a certificate for a server, both as PEM: `(certificate, key)`."""
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self._sign(key.public_key(), hostnames, days)
        return issued.certificate, _private_pem(key).decode()

    def _sign(self, key: CertificatePublicKeyTypes, hostnames: Sequence[str], days: float) -> Issued:
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        not_after = now + dt.timedelta(days=days)
        serial = x509.random_serial_number()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostnames[0][:64])]))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(serial)
            # a leaf of zero or negative days is how a test gets an expired one
            .not_valid_before(min(now, not_after) - BACKDATE)
            .not_valid_after(not_after)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in hostnames]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        return Issued(certificate=pem, serial=serial, not_after=not_after)

    def _create(self, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + dt.timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        # The certificate comes last: its presence says that the pair is complete.
        _write_private(self._key_path, _private_pem(key))
        _write_private(self._certificate_path, certificate.public_bytes(serialization.Encoding.PEM))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_private(path: Path, content: bytes) -> None:
    """Write a file that never existed with looser permissions than 0600."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    temporary.replace(path)
