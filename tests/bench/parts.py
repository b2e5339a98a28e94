"""The parts of an installation, each alone on a fresh server: downloads, npm, the start of the gateway.

The commands are those of provision-openclaw.sh, without its checks of what is there already. tests/unit/test_bench.py
holds the two together.
"""

import json
from typing import Any

from clawdet_cli import pins
from tests.bench.bed import KEY, Bed
from tests.bench.remote import Remote

NPM_CI = "--omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error"
UNPACK_NODE = "--strip-components=1 --no-same-owner --exclude='*/include' --exclude='*/share'"
TRUST = "/etc/ssl/certs/ca-certificates.crt"

TIMED = """\
set -e
umask 022
began=$(date +%s%N)
{
  @COMMAND@
} >/tmp/part.log 2>&1 || { tail -n 20 /tmp/part.log; exit 1; }
echo "@milliseconds $((($(date +%s%N) - began) / 1000000))"
"""
"""On the server, by its own clock, so that the way there and back does not count."""

NODE = """\
cd /tmp && curl -fsS --output node '{url}' && openssl dgst -sha256 -r node | grep '^{archive} ' &&
  mkdir -p /opt/node && tar -xJf node -C /opt/node {options} && rm node &&
  openssl dgst -sha256 -r /opt/node/bin/node | grep '^{executable} ' && ln -sf /opt/node/bin/n* /usr/local/bin/"""

CADDY = """\
cd /tmp && curl -fsS --output caddy.tar.gz '{url}' && openssl dgst -sha256 -r caddy.tar.gz | grep '^{archive} ' &&
  tar -xzf caddy.tar.gz -C /usr/local/bin --no-same-owner caddy && rm caddy.tar.gz &&
  openssl dgst -sha256 -r /usr/local/bin/caddy | grep '^{executable} '"""

NPM = """\
export NODE_EXTRA_CA_CERTS={trust} npm_config_cache=/tmp/npm npm_config_update_notifier=false
  npm ci --prefix /opt/openclaw {options}"""

PACKAGES = """\
export NODE_EXTRA_CA_CERTS={trust}
  cd /opt/packages && node /opt/packages.js && chmod -R u=rwX,go=rX ."""

FINISH = (
    "env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/tmp NODE_DISABLE_COMPILE_CACHE=1"
    " node /opt/openclaw/node_modules/openclaw/openclaw.mjs --version"
)
"""OpenClaw finishes its installation at its first run."""

GATEWAY_START = """\
systemctl start openclaw-gateway
  for n in $(seq 1800); do
    curl -sf -o /dev/null --max-time 5 http://127.0.0.1:18789/readyz && break
    [ $n -lt 1800 ] || { journalctl -u openclaw-gateway -n 20 --no-pager; false; }
    sleep 0.1
  done"""

UNIT = f"""\
[Service]
User=openclaw
WorkingDirectory=/var/lib/openclaw
Environment=HOME=/var/lib/openclaw OPENCLAW_STATE_DIR=/var/lib/openclaw/.openclaw OPENCLAW_NO_RESPAWN=1
Environment=NODE_EXTRA_CA_CERTS={TRUST} PATH=/usr/local/bin:/usr/bin:/bin
ExecStart=/opt/node/bin/node /opt/openclaw/node_modules/openclaw/openclaw.mjs gateway run --port 18789
"""


def node_download(bed: Bed, remote: Remote) -> float:
    """Download Node, check it, and unpack it."""
    return _timed(
        remote,
        NODE.format(
            url=bed.mirror["node_url"],
            archive=bed.mirror["node_archive_sha256"],
            executable=bed.pinned.node.executable_sha256,
            options=UNPACK_NODE,
        ),
    )


def caddy_download(bed: Bed, remote: Remote) -> float:
    """Download Caddy, check it, and unpack it."""
    return _timed(
        remote,
        CADDY.format(
            url=bed.mirror["caddy_url"],
            archive=bed.mirror["caddy_archive_sha256"],
            executable=bed.pinned.caddy.executable_sha256,
        ),
    )


def npm_install(bed: Bed, remote: Remote) -> float:
    """Install OpenClaw from its lock, with an empty cache; Node must be there."""
    registry = remote.run("npm config get registry").strip()
    lock = addressed(json.loads(bed.pinned.package_lock), registry)
    remote.run("mkdir -p /opt/openclaw && cat > /opt/openclaw/package.json", stdin=bed.pinned.package_json)
    remote.run("cat > /opt/openclaw/package-lock.json", stdin=json.dumps(lock).encode())
    return _timed(remote, NPM.format(trust=TRUST, options=NPM_CI))


def packages_install(bed: Bed, remote: Remote) -> float:
    """Install the same once more, into another folder and as the product does it; Node must be there."""
    remote.run("cat > /opt/packages.js", stdin=pins.packages_program())
    remote.run("mkdir -p /opt/packages && cat > /opt/packages/package-lock.json", stdin=bed.pinned.package_lock)
    return _timed(remote, PACKAGES.format(trust=TRUST))


def openclaw_finish(remote: Remote) -> float:
    """Run OpenClaw once, as root, which it wants before anybody else can use it."""
    return _timed(remote, FINISH)


def configure_gateway(bed: Bed, remote: Remote, host: str) -> None:
    """Prepare everything for the first start of the gateway, by hand and untimed."""
    home, state = "/var/lib/openclaw", "/var/lib/openclaw/.openclaw"
    environment = "".join(f"{name}={value}\n" for name, value in {"OPENCLAW_GATEWAY_TOKEN": "0" * 48, **KEY}.items())
    remote.run(f"useradd --system --user-group --create-home --home-dir {home} openclaw && install -d -m 700 {state}")
    for path, content in {
        f"{state}/openclaw.json": json.dumps(_configuration(bed, host)),
        f"{state}/.env": environment,
        "/etc/systemd/system/openclaw-gateway.service": UNIT,
    }.items():
        remote.run(f"cat > {path}", stdin=content.encode())
    remote.run(f"chown -R openclaw:openclaw {home} && chmod 600 {state}/.env && systemctl daemon-reload")


def gateway_start(remote: Remote) -> float:
    """Start the gateway and wait until it is ready."""
    return _timed(remote, GATEWAY_START)


def gateway_stop(remote: Remote) -> None:
    """Stop the gateway; what it keeps stays."""
    remote.run("systemctl stop openclaw-gateway")


def addressed(lock: dict[str, Any], registry: str) -> dict[str, Any]:
    """Fill the usual addresses into a lock, so that npm asks for no metadata, as the product does."""
    packages = {}
    for place, entry in lock["packages"].items():
        name = entry.get("name") or place.split("node_modules/")[-1]
        file = f"{registry.rstrip('/')}/{name}/-/{name.split('/')[-1]}-{entry.get('version')}.tgz"
        packages[place] = {**entry, "resolved": file} if entry.get("integrity") else entry
    return {**lock, "packages": packages}


def _configuration(bed: Bed, host: str) -> dict[str, Any]:
    token = {"source": "env", "provider": "default", "id": "OPENCLAW_GATEWAY_TOKEN"}
    return {
        "meta": {"lastTouchedVersion": bed.openclaw_version},
        "gateway": {
            "mode": "local",
            "port": 18789,
            "bind": "loopback",
            "publicOrigin": f"https://{host}",
            "auth": {"mode": "token", "token": token},
            "trustedProxies": ["127.0.0.1", "::1"],
            "controlUi": {"enabled": True, "basePath": "/app", "allowedOrigins": [f"https://{host}"]},
        },
        "discovery": {"mdns": {"mode": "off"}},
        "update": {"checkOnStart": False},
        "agents": {
            "defaults": {
                "workspace": "/var/lib/openclaw/workspace",
                "model": {"primary": bed.pinned.models["XAI_API_KEY"]},
            },
            "entries": {"main": {}},
        },
    }


def _timed(remote: Remote, command: str) -> float:
    said = remote.run("bash -s", stdin=TIMED.replace("@COMMAND@", command).encode())
    found = [line for line in said.splitlines() if line.startswith("@milliseconds ")]
    return int(found[-1].split()[1]) / 1000
