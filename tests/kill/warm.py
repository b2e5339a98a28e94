"""Does once, before any fork, what each process would do anew: more than half of what a command takes.

Modules that the program imports only where they are needed are imported, and the SDK of Cloudflare imports its parts
and builds the models of its answers at the first call of a kind.
"""

from typing import Any

import cloudflare
import dns.rdtypes.IN.A
import httpx

from clawdet_cli import sandbox
from clawdet_cli.adapters import fleet_cloudflare, fleet_hetzner, hetzner
from clawdet_cli.cli import approve, destroy, networks, pool_screens, provision, reconcile, screens, summary
from clawdet_cli.model import now_text

IMPORTED = (
    *(sandbox, dns.rdtypes.IN.A, fleet_cloudflare, fleet_hetzner, hetzner),
    *(approve, destroy, networks, pool_screens, provision, reconcile, screens, summary),
)

_RECORD = {
    "id": "0" * 32,
    "name": "alice.example.com",
    "type": "A",
    "content": "192.0.2.1",
    "proxied": True,
    "proxiable": True,
    "ttl": 1,
    "comment": "clawdet:alice:abcdef012345",
    "tags": [],
    "settings": {},
    "meta": {},
    "created_on": now_text(),
    "modified_on": now_text(),
}
_CERTIFICATE = {
    "id": "1",
    "certificate": "-",
    "csr": "-",
    "hostnames": ["alice.example.com"],
    "request_type": "origin-ecc",
    "requested_validity": 5475,
    "expires_on": now_text(),
}
_ZONE = {"id": "0" * 32, "name": "example.com", "status": "active", "permissions": ["#zone:read"]}
_ANSWERS: dict[str, Any] = {
    "dns_records": _RECORD,
    "certificates": _CERTIFICATE,
    "settings": {"id": "ssl", "value": "strict", "editable": True, "modified_on": now_text()},
    "zones": _ZONE,
    "ips": {"ipv4_cidrs": ["192.0.2.0/24"], "ipv6_cidrs": ["2001:db8::/32"], "etag": "x"},
    "tokens": {"id": "x", "status": "active"},
}
_LISTS = ("/zones", "/dns_records", "/certificates")


def warm() -> None:
    """Make each call that clawdet makes, without a connection."""

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        result = next(result for part, result in _ANSWERS.items() if part in path)
        if request.method == "GET" and path.endswith(_LISTS):
            result = [result]
        pages = {"page": 1, "per_page": 50, "count": 1, "total_count": 1, "total_pages": 1}
        document = {"success": True, "errors": [], "messages": [], "result": result, "result_info": pages}
        return httpx.Response(200, json=document)

    httpx.HTTPTransport().close()
    with cloudflare.Cloudflare(
        api_token="none", http_client=httpx.Client(transport=httpx.MockTransport(answer)), max_retries=0
    ) as client:
        zone, record, host = str(_ZONE["id"]), str(_RECORD["id"]), "alice.example.com"
        client.user.tokens.verify()
        client.ips.list()
        list(client.zones.list(name="example.com").result)
        client.zones.settings.get("ssl", zone_id=zone)
        records = client.dns.records
        list(records.list(zone_id=zone, name={"exact": host}).result)
        records.with_raw_response.list(zone_id=zone)
        records.get(record, zone_id=zone)
        records.create(zone_id=zone, name=host, type="A", content="192.0.2.1", ttl=1, proxied=True)
        records.edit(record, zone_id=zone, name=host, type="A", content="192.0.2.1", ttl=1, proxied=True)
        records.delete(record, zone_id=zone)
        certificates = client.origin_ca_certificates
        list(certificates.list(zone_id=zone).result)
        certificates.create(csr="-", hostnames=[host], request_type="origin-ecc", requested_validity=5475)
        certificates.get("1")
        certificates.delete("1")
