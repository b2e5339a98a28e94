"""Names certificates and the public keys in them and in requests, so that they can be compared."""

import functools
import hashlib

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.ExtensionNotFound)
"""What hostile input can make the parsers raise, beside an answer."""


@functools.lru_cache(maxsize=4096)  # a fleet sees the same lists many times
def of_request(pem: str) -> str | None:
    """Return the SHA-256 (hex) of a certificate request's public key; None for what is no request.

    Whoever made it must have the private key: anybody could write somebody else's public key into a request.
    """
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        if not request.is_signature_valid:
            return None
        key = request.public_key()
        return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
    except UNREADABLE:
        return None


@functools.lru_cache(maxsize=4096)
def of_certificate(pem: str) -> str | None:
    """Return the SHA-256 (hex) of a certificate's public key; None for what is no certificate."""
    try:
        key = x509.load_pem_x509_certificate(pem.encode()).public_key()
        return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
    except UNREADABLE:
        return None


@functools.lru_cache(maxsize=4096)
def digest_of_certificate(pem: str) -> str | None:
    """Return the SHA-256 (hex) of a whole certificate, as `openssl x509 -fingerprint`; None for what is none."""
    try:
        return hashlib.sha256(x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)).hexdigest()
    except UNREADABLE:
        return None


def names_in_certificate(pem: str) -> tuple[str, ...]:
    """Return the DNS names that a certificate is for; none for what is no certificate."""
    try:
        found = x509.load_pem_x509_certificate(pem.encode()).extensions
        return tuple(found.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName))
    except UNREADABLE:
        return ()
