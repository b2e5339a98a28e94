"""Looks at what a VPS asks to have certified, before anybody certifies it."""

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from clawdet_cli import public_key
from clawdet_cli.errors import GuestError


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
    except public_key.UNREADABLE:
        good = False
    if not good:
        raise GuestError(f"The VPS's certificate request is not one for {host} alone with a P-256 key.")


def same_key(one: str, other: str) -> bool:
    """Return whether two certificate requests are made with the same key; ECDSA signs each anew."""
    key = public_key.of_request(one)
    return key is not None and key == public_key.of_request(other)
