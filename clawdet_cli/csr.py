"""Looks at what a VPS asks to have certified, before anybody certifies it."""

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from clawdet_cli.errors import GuestError

_UNREADABLE = (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.ExtensionNotFound)
"""What a hostile request can make the parser raise, beside an answer."""


def check(pem: str, host: str) -> None:
    """Make sure that a certificate request is signed, for P-256, and for this host alone. Raises GuestError.

    A VPS that is not ours any more could otherwise ask for another host's certificate.
    """
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        key = request.public_key()
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        sound = (
            request.is_signature_valid
            and isinstance(key, ec.EllipticCurvePublicKey)
            and isinstance(key.curve, ec.SECP256R1)
        )
        good = sound and [(type(name), name.value) for name in names] == [(x509.DNSName, host)]
    except _UNREADABLE:
        good = False
    if not good:
        raise GuestError(f"The VPS's certificate request is not one for {host} alone with a P-256 key.")


def same_key(one: str, other: str) -> bool:
    """Say whether two certificate requests are made with the same key; ECDSA signs each anew."""
    try:
        keys = [x509.load_pem_x509_csr(pem.encode()).public_key() for pem in (one, other)]
    except _UNREADABLE:
        return False
    return bool(keys[0] == keys[1])
