"""The baseline: the flow of the TypeScript provisioner that this project replaces, rebuilt step by step.

    step (lib/provisioner-v2.ts, lib/hetzner.ts, lib/cloudflare.ts, lib/ssh-installer-v2.ts)       here
    POST /servers; GET /servers/{id} at once and then every 5 s until `running`                    _await_running
    look the DNS record up; create it, proxied                                                     _dns
    SSH: 15 s until it is ready (30 s with all); after a failure 10 s of waiting; 20 times         _connect
    upload of the script, some 70 KB, by a here-document                                           _upload
    scripts/provision-openclaw.sh                                                                  seed.sh

One after the other; nothing overlaps. Where this differs from the original:

- The vendors' apt repositories of Node and Caddy cannot be reached: the same bytes come from the sandbox's mirror, on
  the same network as for the other variants. Both repositories' own `apt-get update` is kept (once for Node, whose
  script does it twice); what `apt-get install` costs besides unpacking is left out, in the baseline's favour.
- OpenClaw and Node are the product's versions: the original's `@latest` does not run on the original's Node 22.
- OpenClaw's configuration has today's keys: the original's would stop the gateway at once (exit 78).
- The original's TLS (`tls internal`) is refused by a zone in mode strict. The script brings along a certificate of the
  Origin CA that was signed before the clock starts: in the baseline's favour.
- The texts are shorter, and a comment in the landing page makes up for their length. Skills and cron are two files.
- The original ends with "complete" while its second gateway start is still going on, and verifies nothing. Here the
  end is where the product's promise begins: /readyz answers 200 on the server, and the landing page through the edge.
  The product's own time goes on until its command has ended, with all its six checks.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.bench.bed import KEY, Bed, Ordered
from tests.bench.memory import MemoryWatch
from tests.bench.remote import NOT_YET, BenchError, Remote
from tests.bench.spans import Measured, Parts

POLL_SECONDS = 5.0
READY_SECONDS = 15.0
RETRY_SECONDS = 10.0
ATTEMPTS = 20
SCRIPT_BYTES = 70_000

READY = """\
n=0
until curl -sf -o /dev/null --max-time 5 http://127.0.0.1:18789/readyz; do
  n=$((n+1)); [ $n -lt 1800 ] || { journalctl -u openclaw-gateway -n 20 --no-pager; exit 1; }
  sleep 0.1
done"""


def measure(bed: Bed, user: str) -> Measured:
    """Provision a user as the seed does, take everything away again, and give what it took."""
    host = f"{user}.{bed.zone}"
    origin = _certified(bed, host)
    script = script_for(origin)
    bed.key_id()
    zone_id = bed.operator.zone_id()  # the original has both ids in its settings
    parts = Parts()
    server: Ordered | None = None
    record = ""
    try:
        with MemoryWatch(bed.mark) as memory:
            parts.next("order, then a look every 5 s until it runs")
            server = bed.order(f"clawdet-{user}", labels={"project": "clawdet", "user": user})
            _await_running(bed, server)
            record = _dns(bed, zone_id, host, server, parts.next)
            with _connect(bed, server, parts.next) as remote:
                _upload(remote, script, parts.next)
                _install(bed, remote, user, host, parts.next)
                parts.next("until /readyz and the page are there")
                remote.run(READY)
                _await_page(bed, host, user)
            spans = parts.end()
        return Measured(spans[-1].end, spans, memory.of(server.id, parts.began, spans))
    finally:
        if record:
            bed.operator.cloud("cloudflare", f"/zones/{zone_id}/dns_records/{record}", "DELETE")
        if server is not None:
            bed.delete(server)
        bed.operator.cloud("cloudflare", f"/certificates/{origin.id}", "DELETE")


def _await_running(bed: Bed, server: Ordered) -> None:
    while bed.status(server) != "running":
        time.sleep(POLL_SECONDS)


def _dns(bed: Bed, zone_id: str, host: str, server: Ordered, part: Callable[[str], None]) -> str:
    part("DNS record")
    if bed.operator.cloud("cloudflare", f"/zones/{zone_id}/dns_records?type=A&name={host}")["result"]:
        raise BenchError(f"{host} is there already")
    body = {"type": "A", "name": host, "content": server.ipv4, "ttl": 1, "proxied": True}
    return str(bed.operator.cloud("cloudflare", f"/zones/{zone_id}/dns_records", "POST", body)["result"]["id"])


def _connect(bed: Bed, server: Ordered, part: Callable[[str], None]) -> Remote:
    part("SSH, 10 s between attempts")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return Remote.connect(bed.dial(server.ipv4, 22), bed.key, seconds=READY_SECONDS)
        except NOT_YET as error:
            if attempt == ATTEMPTS:
                raise BenchError(f"no SSH after {ATTEMPTS} attempts: {error}") from None
            time.sleep(RETRY_SECONDS)
    raise AssertionError


def _upload(remote: Remote, script: str, part: Callable[[str], None]) -> None:
    part("upload")
    path = "/tmp/provision-openclaw.sh"  # noqa: S108 - the original's place, on a server that is nobody else's
    remote.run(f"cat > {path} << 'EOFSCRIPT'\n{script}\nEOFSCRIPT\nchmod +x {path}")


def _install(bed: Bed, remote: Remote, user: str, host: str, part: Callable[[str], None]) -> None:
    values = {
        **KEY,
        "USERNAME": user,
        "DOMAIN": host,
        "OPENCLAW_VERSION": bed.openclaw_version,
        "MODEL": bed.pinned.models["XAI_API_KEY"],
        "NODE_URL": bed.mirror["node_url"],
        "CADDY_URL": bed.mirror["caddy_url"],
    }
    given = " ".join(f"{name}='{value}'" for name, value in values.items())

    def heard(line: str) -> None:
        if line.startswith("@part "):
            part(line.removeprefix("@part "))

    remote.run(f"{given} bash /tmp/provision-openclaw.sh", line=heard)


def _await_page(bed: Bed, host: str, user: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = bed.page(host)
        if answer.startswith("HTTP/1.1 200") and f"of {user}" in answer:
            return
        time.sleep(0.1)
    raise BenchError(f"the landing page does not come through the edge: {answer[:200]}")


@dataclass(frozen=True)
class Origin:
    """A certificate of the emulated Origin CA, and its key."""

    id: str
    certificate: str
    key: str


def _certified(bed: Bed, host: str) -> Origin:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    body = {
        "csr": csr.public_bytes(serialization.Encoding.PEM).decode(),
        "hostnames": [host],
        "request_type": "origin-ecc",
        "requested_validity": 7,
    }
    made = bed.operator.cloud("cloudflare", "/certificates", "POST", body)["result"]
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return Origin(str(made["id"]), made["certificate"].strip(), pem.strip())


def script_for(origin: Origin) -> str:
    """Fill the script in, and give it the original's length."""
    script = (Path(__file__).parent / "seed.sh").read_text()
    script = script.replace("@ORIGIN_CERTIFICATE@", origin.certificate).replace("@ORIGIN_KEY@", origin.key)
    page = "<!DOCTYPE html>\n<html><title>OpenClaw of {{ USERNAME }}</title>\n<!--\n%s-->\n</html>"
    missing = SCRIPT_BYTES - len(script) - len(page)
    return script.replace("@LANDING_PAGE@", page % ("as long as the original's page\n" * (missing // 31)))
