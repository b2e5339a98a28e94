import base64
import ipaddress
import re
from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from clawdet_cli import csr
from clawdet_cli.errors import GuestError

HOST = "alice.example.com"
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def request(
    names: Sequence[x509.GeneralName] = (x509.DNSName(HOST),), key: Key | None = None, *, more: bool = False
) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if more:
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
    key = key or ec.generate_private_key(ec.SECP256R1())
    signed = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def changed(pem: str, old: bytes, new: bytes) -> str:
    der = base64.b64decode("".join(pem.splitlines()[1:-1]))
    assert old in der
    lines = re.findall(".{1,64}", base64.b64encode(der.replace(old, new)).decode())
    return "\n".join(["-----BEGIN CERTIFICATE REQUEST-----", *lines, "-----END CERTIFICATE REQUEST-----", ""])


def with_bad_signature() -> str:
    pem = request()
    return changed(pem, x509.load_pem_x509_csr(pem.encode()).tbs_certrequest_bytes[-9:], b"elsewhere")


def for_another_key_than_it_is_signed_with() -> str:
    one, other = request(), request()
    keys = [
        x509.load_pem_x509_csr(pem.encode())
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        for pem in (one, other)
    ]
    return changed(one, *keys)


def on_an_unknown_curve() -> str:
    # 1.2.840.10045.3.1.7, which is P-256, to 1.2.840.10045.3.1.4
    return changed(request(), bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030104"))


def with_two_lists_of_names() -> str:
    # 2.5.29.19, basic constraints, to 2.5.29.17, subject alternative names
    return changed(request(more=True), bytes.fromhex("0603551d13"), bytes.fromhex("0603551d11"))


def test_a_request_for_the_host_alone_is_good() -> None:
    csr.check(request(), HOST)


BAD = [
    pytest.param(request([x509.DNSName("bob.example.com")]), id="another host"),
    pytest.param(request([x509.DNSName(HOST), x509.DNSName("bob.example.com")]), id="two names"),
    pytest.param(request([x509.DNSName(HOST), x509.DNSName(HOST)]), id="the name twice"),
    pytest.param(request([x509.DNSName("*.example.com")]), id="wildcard"),
    pytest.param(request([x509.DNSName("example.com")]), id="the zone itself"),
    pytest.param(request([x509.UniformResourceIdentifier(HOST)]), id="a name of another kind"),
    pytest.param(request([x509.DNSName(HOST), x509.IPAddress(ipaddress.ip_address("192.0.2.1"))]), id="an address too"),
    pytest.param(request([]), id="no name"),
    pytest.param(request(key=rsa.generate_private_key(65537, 2048)), id="RSA"),
    pytest.param(request(key=ec.generate_private_key(ec.SECP384R1())), id="P-384"),
    pytest.param(request(key=ed25519.Ed25519PrivateKey.generate()), id="Ed25519"),
    pytest.param(with_bad_signature(), id="bad signature"),
    pytest.param(for_another_key_than_it_is_signed_with(), id="another's key"),
    pytest.param(on_an_unknown_curve(), id="unknown curve"),
    pytest.param(with_two_lists_of_names(), id="two lists of names"),
    pytest.param("", id="empty"),
    pytest.param("bash: openssl: command not found", id="garbage"),
    pytest.param("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", id="garbage in PEM"),
    pytest.param("\udcff", id="not text"),
]


@pytest.mark.parametrize("pem", BAD)
def test_any_other_request_is_refused(pem: str) -> None:
    with pytest.raises(GuestError, match=HOST):
        csr.check(pem, HOST)


def test_requests_of_one_key_are_recognised_though_each_is_signed_anew() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    one, other = request(key=key), request(key=key)
    assert one != other
    assert csr.same_key(one, other)


@pytest.mark.parametrize("pem", [request(), "", "garbage", on_an_unknown_curve()])
def test_other_requests_are_not_of_the_same_key(pem: str) -> None:
    assert not csr.same_key(request(), pem)
    assert not csr.same_key(pem, request())
