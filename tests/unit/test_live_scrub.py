"""What the live check keeps of an answer: its shape, and nothing that is somebody's."""

import json
from pathlib import Path

import pytest

from tests.live.recorder import Recorder
from tests.live.scrub import Scrubber

ZONE, WORD = "canary-zone.org", "q7w2x9"
TOKEN, OTHER_TOKEN = "CanaryTokenOfHetzner_" + "x9" * 20, "canary-token-of-cloudflare-0123456789abc"
ZONE_ID, ACCOUNT_ID = "c0ffee00c0ffee00c0ffee00c0ffee00", "deadbeef00deadbeef00deadbeef0042"
PEM = "-----BEGIN CERTIFICATE-----\nMIICanaryCanary0123\nQUJD\n-----END CERTIFICATE-----\n"
SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICanaryCanaryCanaryCanary0123456789abc operator@canary-laptop"

BODY = {
    "result": [
        {
            "id": ZONE_ID,
            "name": ZONE,
            "account": {"id": ACCOUNT_ID, "name": "Canary Holding GmbH"},
            "owner": {"type": "user", "email": "canary.person@canary-mail.net", "name": "Carla Canary"},
            "name_servers": ["carla.ns.cloudflare.com", "bob.ns.cloudflare.com"],
            "original_registrar": "canary registrar",
            "hostnames": [f"live-{WORD}.{ZONE}", f"intern.{ZONE}", "vpn.canary-other.net"],
            "certificate": PEM,
            "server_id": 120704776,
            "requested_validity": 7,
            "proxied": True,
        }
    ],
    "server": {
        "public_net": {"ipv4": {"ip": "95.216.12.34"}, "ipv6": {"ip": "2a01:4f9:c010:beef::1/64"}},
        "dns_ptr": "static.34.12.216.95.clients.your-server.de",
        "other": "95-216-12-34.clients.example",
        "firewalls": [{"firewall": 120704776}],
        "public_key": SSH_KEY,
        "fingerprint": "b7:2f:30:a0:2f:6c:58:6c:21:04:58:61:ba:06:3b:2f",
        "root_password": "CanaryPassword",
        "labels": {"clawdet-live": WORD},
    },
    "errors": [{"code": 1101, "message": f"server with ID '120704776' in {ACCOUNT_ID} for {OTHER_TOKEN}"}],
    "log": "/home/canary-user/.local/state/clawdet/run.log",
    "page": "<p>Ray ID: 8c1f0a2b3c4d5e6f</p><p>Your IP: 2a01:4f9:c010:beef::99</p> ask canary.two@canary-mail.net",
    "uuid": "0d9f6f0e-1111-2222-3333-0123456789ab",
    "session": "Zm9vYmFyCanaryCanaryCanary0123456789CanaryCanary",
}
HEADERS = {
    "Content-Type": "application/json",
    "RateLimit-Remaining": "3599",
    "CF-Ray": "8c1f0a2b3c4d5e6f-FRA",
    "Set-Cookie": "__cf_bm=CanaryCookie; path=/",
    "X-Correlation-Id": "canarycorrelation01",
    "Link": f"<https://api.example/zones/{ZONE_ID}?page=2>; rel=next",
    "X-Canary-Of-The-Future": "canary-value",
}
CANARIES = (
    *("canary-zone", WORD, TOKEN, OTHER_TOKEN, ZONE_ID, ACCOUNT_ID, "Canary", "canary", "carla", "bob.ns", "intern"),
    *("120704776", "95.216", "34.12.216", "95-216", "2a01", "beef", "MIIC", "AAAAC3", "b7:2f", "8c1f0a2b"),
    *("0d9f6f0e", "Zm9v", "0123456789ab"),
)


@pytest.fixture
def scrubber() -> Scrubber:
    return Scrubber(zone=ZONE, word=WORD, secrets=[TOKEN, OTHER_TOKEN], folders=["/home/canary-user"])


def kept(scrubber: Scrubber, folder: Path) -> str:
    recorder = Recorder(folder, scrubber)
    recorder.subject = "subject"
    recorder.exchange(
        "canaries",
        method="GET",
        path=f"/zones/{ZONE_ID}/servers/120704776?name={ZONE}",
        sent={"authorization": f"Bearer {TOKEN}", "public_key": SSH_KEY},
        status=200,
        headers=HEADERS,
        body=BODY,
    )
    return (folder / "subject" / "canaries.200.json").read_text()


def test_no_canary_comes_through(scrubber: Scrubber, tmp_path: Path) -> None:
    # Names of headers stay: a new one is what a fixture is to tell of.
    text = kept(scrubber, tmp_path).replace("x-canary-of-the-future", "")
    text = text.replace("-----BEGIN CERTIFICATE-----", "")
    assert [canary for canary in CANARIES if canary in text] == []


def test_what_has_a_shape_keeps_it(scrubber: Scrubber, tmp_path: Path) -> None:
    found = json.loads(kept(scrubber, tmp_path))
    (zone,) = found["response"]["body"]["result"]
    server = found["response"]["body"]["server"]
    assert len(zone["id"]) == 32
    assert zone["id"] != zone["account"]["id"]
    assert zone["name"] == "zone.example"
    assert zone["hostnames"] == ["live-word.zone.example", "name-1.zone.example", "host-2.example"]
    assert zone["certificate"].startswith("-----BEGIN CERTIFICATE-----\n")
    assert zone["name_servers"] == ["server1.ns.cloudflare.com", "server2.ns.cloudflare.com"]
    assert (zone["requested_validity"], zone["proxied"]) == (7, True)
    assert server["public_net"]["ipv6"]["ip"].endswith("/64")
    assert found["response"]["body"]["page"].startswith("<p>Ray ID: <ray></p>")
    assert server["labels"] == {"clawdet-live": "word"}
    assert server["public_key"] == "ssh-ed25519 <key-1>"
    assert found["response"]["headers"]["ratelimit-remaining"] == "3599"
    assert found["response"]["headers"]["cf-ray"] == "<20 characters>"


def test_one_thing_has_one_placeholder_wherever_it_stands(scrubber: Scrubber, tmp_path: Path) -> None:
    found = json.loads(kept(scrubber, tmp_path))
    body = found["response"]["body"]
    (zone,) = body["result"]
    number = zone["server_id"]
    assert found["request"]["path"] == f"/zones/{zone['id']}/servers/{number}?name=zone.example"
    assert body["server"]["firewalls"] == [{"firewall": number}]
    assert body["errors"][0]["message"] == f"server with ID '{number}' in {zone['account']['id']} for <secret>"
    assert found["response"]["headers"]["link"].startswith(f"<https://api.example/zones/{zone['id']}")


def test_the_same_answers_give_the_same_fixtures(tmp_path: Path) -> None:
    first, second = (
        kept(Scrubber(zone=ZONE, word=WORD, secrets=[TOKEN, OTHER_TOKEN], folders=["/home/canary-user"]), tmp_path)
        for _ in range(2)
    )
    assert first == second


def test_what_is_the_same_for_everybody_stays(scrubber: Scrubber) -> None:
    for text in (
        "0.0.0.0/0 ::/0 192.0.2.1 http://169.254.169.254/ fe80::a9fe:a9fe",
        "2026-12-01T00:07:42.000+00:00",
        "https://developers.cloudflare.com/dns/manage-dns-records/troubleshooting/records-with-same-name/",
        "OpenClaw 2026.9.6, HTTP 422, code 81044, 17:59:01",
        '"default";r=1199;t=300',
    ):
        assert scrubber.text(text) == text
