import datetime as dt
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from clawdet_cli.sandbox.authority import Authority


def csr_for(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, name: str = "whatever.test") -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def verified(authority: Authority, pem: str, host: str) -> None:
    root = x509.load_pem_x509_certificate(authority.ca_pem.encode())
    store = x509.verification.Store([root])
    verifier = x509.verification.PolicyBuilder().store(store).build_server_verifier(x509.DNSName(host))
    verifier.verify(x509.load_pem_x509_certificate(pem.encode()), [])


def test_a_new_authority_keeps_its_files_to_itself(tmp_path: Path) -> None:
    Authority(tmp_path / "ca", "Test CA")
    assert stat.S_IMODE((tmp_path / "ca").stat().st_mode) == 0o700
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "ca").iterdir()}
    assert files == {"ca.key": 0o600, "ca.pem": 0o600}


def test_a_second_start_finds_the_same_authority(tmp_path: Path) -> None:
    first = Authority(tmp_path, "Test CA")
    certificate, _ = first.issue_server(["a.test"])
    second = Authority(tmp_path, "Test CA")
    assert second.ca_pem == first.ca_pem
    verified(second, certificate, "a.test")


def test_a_start_that_broke_off_between_the_files_is_made_good(tmp_path: Path) -> None:
    Authority(tmp_path, "Test CA")
    (tmp_path / "ca.pem").unlink()
    certificate, _ = Authority(tmp_path, "Test CA").issue_server(["a.test"])
    verified(Authority(tmp_path, "Test CA"), certificate, "a.test")


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)],
    ids=["ecdsa", "rsa"],
)
def test_a_csr_gets_its_own_key_and_the_names_asked_for(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> None:
    authority = Authority(tmp_path, "Test CA")
    issued = authority.sign_csr(csr_for(key), ["alice.clawdet.test", "*.b.clawdet.test"], 7)
    certificate = x509.load_pem_x509_certificate(issued.certificate.encode())
    assert certificate.public_key() == key.public_key()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["alice.clawdet.test", "*.b.clawdet.test"]
    assert certificate.serial_number == issued.serial
    assert certificate.not_valid_after_utc == issued.not_after
    assert dt.timedelta(days=6) < issued.not_after - dt.datetime.now(dt.UTC) <= dt.timedelta(days=7)
    verified(authority, issued.certificate, "alice.clawdet.test")


def test_the_longest_origin_certificate_ends_before_its_authority(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "Test CA")
    issued = authority.sign_csr(csr_for(ec.generate_private_key(ec.SECP256R1())), ["a.test"], 5475)
    assert issued.not_after < x509.load_pem_x509_certificate(authority.ca_pem.encode()).not_valid_after_utc


def test_another_authority_does_not_vouch(tmp_path: Path) -> None:
    certificate, _ = Authority(tmp_path / "one", "Test CA").issue_server(["a.test"])
    with pytest.raises(x509.verification.VerificationError):
        verified(Authority(tmp_path / "two", "Test CA"), certificate, "a.test")


def test_a_csr_that_is_none_or_was_altered_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "Test CA")
    with pytest.raises(ValueError, match="PEM"):
        authority.sign_csr("no csr", ["a.test"], 7)
    csr = x509.load_pem_x509_csr(csr_for(ec.generate_private_key(ec.SECP256R1())).encode())
    der = csr.public_bytes(serialization.Encoding.DER).replace(b"whatever.test", b"whatever.tesT")
    altered = x509.load_der_x509_csr(der).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(ValueError, match="signature"):
        authority.sign_csr(altered, ["a.test"], 7)
