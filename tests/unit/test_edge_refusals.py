"""Cloudflare's own refusals are told apart from every answer of a server's."""

import pytest

from clawdet_cli.adapters.edge import Answer
from clawdet_cli.adapters.edge_refusals import kept_out

CHALLENGE = {"cf-mitigated": "challenge", "content-type": "text/html; charset=UTF-8"}
BLOCKED = (
    b"<!DOCTYPE html><head><title>Attention Required! | Cloudflare</title></head><h1>Sorry, you have been blocked</h1>"
)
BANNED = b'<div id="cf-error-details"><h1><span>Error</span> <span>1010</span></h1><p>Ray ID: 8f1020aa</p></div>'


@pytest.mark.parametrize(
    ("status", "headers", "body", "told"),
    [
        (403, CHALLENGE, b"<title>Just a moment...</title>", "Bot Fight Mode (Security > Bots)"),
        (503, CHALLENGE, b"", "'Under Attack' (Security > Settings)"),
        (403, {"cf-mitigated": "block"}, b"", "it blocks this visitor (HTTP 403, cf-mitigated: block)"),
        (403, {}, b"error code: 1010", "Browser Integrity Check: Security > Settings"),
        (403, {}, b"error code: 1010\n", "Browser Integrity Check"),
        (403, {}, b"error code: 1020", "Security > WAF"),
        (403, {}, b"error code: 1006", "which bans this address"),
        (403, {}, b"error code: 1009", "which bans this country"),
        (429, {}, b"error code: 1015", "a rate limiting rule"),
        (403, {}, b"error code: 1099", "Security > WAF"),
        (403, {}, BLOCKED, "HTTP 403, its own page"),
        (403, {}, BANNED, "error code: 1010). In its dashboard see Browser Integrity Check"),
    ],
)
def test_a_refusal_of_cloudflares_names_its_setting(
    status: int, headers: dict[str, str], body: bytes, told: str
) -> None:
    said = kept_out(status, headers, body)
    assert said.startswith("Cloudflare keeps clawdet out: ")
    assert told in said
    assert Answer(status, headers, body).kept_out == said


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"error code: 1010"),
        (401, b'{"error": "Unauthorized"}'),
        (403, b"Forbidden"),
        (403, b"the page says error code: 1010"),
        (403, b"error code: 1000"),  # DNS points to a prohibited address
        (403, b"error code: 1003"),  # asked by address
        (403, b"error code: 1014"),  # a CNAME across accounts
        (409, b"error code: 1001"),
        (530, b"error code: 1016"),
        (503, b"Service Unavailable"),
    ],
)
def test_no_other_answer_is_one(status: int, body: bytes) -> None:
    assert kept_out(status, {"server": "cloudflare"}, body) == ""


def test_a_long_header_is_cut() -> None:
    assert len(kept_out(403, {"cf-mitigated": "x" * 10_000}, b"")) < 400
