"""The certificate that Cloudflare's edge shows for a zone's names: Universal SSL, ready, on its way or switched off."""

import hashlib
from typing import Any


def packs(zone: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the zone's certificate packs, whatever their status; none where Universal SSL is switched off."""
    universal = zone["universal_ssl"]
    if not universal["enabled"]:
        return []
    pack_id = hashlib.sha256(zone["id"].encode()).hexdigest()
    certificate = {
        "id": str(int(pack_id[:16], 16)),
        "hosts": [f"*.{zone['name']}", zone["name"]],
        "issuer": "GoogleTrustServices",
        "signature": "ECDSAWithSHA256",
        "status": universal["status"],
        "bundle_method": "ubiquitous",
        "zone_id": zone["id"],
        "uploaded_on": zone["created_on"],
        "modified_on": zone["modified_on"],
        "expires_on": "2036-01-01T05:20:00Z",
        "priority": None,
    }
    return [
        {
            "id": f"{pack_id[:8]}-{pack_id[8:12]}-4{pack_id[13:16]}-a{pack_id[17:20]}-{pack_id[20:32]}",
            "type": "universal",
            "hosts": [zone["name"], f"*.{zone['name']}"],
            "primary_certificate": certificate["id"],
            "status": universal["status"],
            "certificates": [certificate] if universal["status"] == "active" else [],
            "created_on": zone["created_on"],
            "validity_days": 90,
            "validation_method": "txt",
            "certificate_authority": "google",
        }
    ]


def verification(zone: dict[str, Any]) -> list[dict[str, Any]]:
    """Return how far the proof is that the zone's names are the account's."""
    universal = zone["universal_ssl"]
    if not universal["enabled"]:
        return []
    status = universal["status"]
    return [
        {
            # It has fewer words than a pack.
            "certificate_status": "initializing" if status.startswith("pending") else status,
            "brand_check": False,
            "verification_type": "cname",
            "verification_status": universal["status"] == "active",
            "validation_method": "txt",
            "cert_pack_uuid": packs(zone)[0]["id"],
            "hostname": zone["name"],
            "signature": "ECDSAWithSHA256",
        }
    ]
