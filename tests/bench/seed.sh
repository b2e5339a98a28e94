#!/bin/bash
# What the seed's install script does on the server, step by step: the same programs, in the same order, with the same
# pauses. tests/bench/seed_flow.py uploads it and says where it had to differ from the original, and why.
#
# In the environment: USERNAME, DOMAIN, XAI_API_KEY, OPENCLAW_VERSION, MODEL, NODE_URL, CADDY_URL.
# `part` says where the script is, so that the benchmark can draw it; it is the benchmark's own, and costs nothing.
set -e
part() { echo "@part $1"; }
export DEBIAN_FRONTEND=noninteractive
GATEWAY_TOKEN=$(openssl rand -hex 32)

part 'apt: update and upgrade'
apt-get update -qq
apt-get upgrade -y -qq

part 'apt: build tools'
apt-get install -y -qq curl wget git build-essential ca-certificates openssl

# The original pipes the vendor's set-up script into bash, which updates the package lists, and installs the package.
part 'Node'
apt-get update -qq
curl -fsSL "$NODE_URL" | tar -xJ -C /usr --strip-components=1 --no-same-owner

# The original adds the vendor's repository, updates the package lists, and installs the package, which brings a user,
# a unit and a first Caddyfile along and starts the server.
part 'Caddy'
apt-get install -y -qq debian-keyring debian-archive-keyring apt-transport-https
apt-get update -qq
curl -fsSL "$CADDY_URL" | tar -xz -C /usr/bin --no-same-owner caddy
useradd --system --user-group --create-home --home-dir /var/lib/caddy --shell /usr/sbin/nologin caddy
mkdir -p /etc/caddy /var/log/caddy
chown caddy:caddy /var/log/caddy
printf ':80 {\n\troot * /usr/share/caddy\n\tfile_server\n}\n' >/etc/caddy/Caddyfile
cat >/etc/systemd/system/caddy.service <<'UNIT'
[Unit]
Description=Caddy
After=network.target network-online.target
Requires=network-online.target

[Service]
Type=notify
User=caddy
Group=caddy
ExecStart=/usr/bin/caddy run --environ --config /etc/caddy/Caddyfile
ExecReload=/usr/bin/caddy reload --config /etc/caddy/Caddyfile --force
TimeoutStopSec=5s
LimitNOFILE=1048576
PrivateTmp=true
ProtectSystem=full
AmbientCapabilities=CAP_NET_ADMIN CAP_NET_BIND_SERVICE

[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable --quiet --now caddy

part 'OpenClaw (npm)'
npm install -g "openclaw@$OPENCLAW_VERSION" --silent

part 'files, Caddy restarted, stray gateways, sleep 2'
mkdir -p /root/.openclaw/workspace/memory /root/.openclaw/config /root/.openclaw/logs
cd /root/.openclaw/workspace
printf '# USER.md\n\nName: %s\nInstance: %s\n' "$USERNAME" "$DOMAIN" >USER.md
printf '# AGENTS.md\n\nThis folder is home.\n' >AGENTS.md
printf '# SOUL.md\n\nBe helpful.\n' >SOUL.md
printf '# IDENTITY.md\n\nUser: %s\n' "$USERNAME" >IDENTITY.md
printf '# MEMORY.md\n' >MEMORY.md
printf '# HEARTBEAT.md\n' >HEARTBEAT.md
printf '# TOOLS.md\n' >TOOLS.md
cat >/root/.openclaw/openclaw.json <<JSON
{
  "meta": { "lastTouchedVersion": "$OPENCLAW_VERSION" },
  "gateway": {
    "mode": "local", "port": 18789, "bind": "loopback",
    "publicOrigin": "https://$DOMAIN",
    "auth": { "mode": "token", "token": "$GATEWAY_TOKEN" },
    "trustedProxies": ["127.0.0.1", "::1"],
    "controlUi": { "enabled": true, "basePath": "/gateway", "allowedOrigins": ["https://$DOMAIN"] }
  },
  "agents": {
    "defaults": { "workspace": "/root/.openclaw/workspace", "model": { "primary": "$MODEL" } },
    "entries": { "main": {} }
  }
}
JSON
mkdir -p /var/www/html
cat >/var/www/html/index.html <<'PAGE'
@LANDING_PAGE@
PAGE
sed -i "s/{{ USERNAME }}/$USERNAME/g" /var/www/html/index.html
mkdir -p /etc/caddy/tls
cat >/etc/caddy/tls/origin.pem <<'PEM'
@ORIGIN_CERTIFICATE@
PEM
cat >/etc/caddy/tls/origin.key <<'PEM'
@ORIGIN_KEY@
PEM
chown -R caddy:caddy /etc/caddy/tls
cat >/etc/caddy/Caddyfile <<CADDY
$DOMAIN {
	handle / {
		root * /var/www/html
		file_server
	}
	handle /gateway* {
		reverse_proxy localhost:18789
	}
	tls /etc/caddy/tls/origin.pem /etc/caddy/tls/origin.key
	log {
		output file /var/log/caddy/clawdet.log
		format json
	}
}
http://$DOMAIN {
	handle / {
		root * /var/www/html
		file_server
	}
	handle /gateway* {
		reverse_proxy localhost:18789
	}
}
CADDY
systemctl restart caddy
systemctl enable --quiet caddy
systemctl stop openclaw-gateway 2>/dev/null || true
for pid in $(pgrep -f 'openclaw gateway' || true); do kill -9 "$pid" || true; done
sleep 2

part 'gateway started, sleep 5'
cat >/etc/systemd/system/openclaw-gateway.service <<UNIT
[Unit]
Description=OpenClaw Gateway
After=network.target

[Service]
Type=simple
User=root
WorkingDirectory=/root/.openclaw
Environment="NODE_ENV=production"
Environment="XAI_API_KEY=$XAI_API_KEY"
Environment="OPENCLAW_STATE_DIR=/root/.openclaw"
Environment="OPENCLAW_GATEWAY_TOKEN=$GATEWAY_TOKEN"
ExecStart=/usr/bin/openclaw gateway run
Restart=always
RestartSec=10
StandardOutput=journal
StandardError=journal

[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable --quiet openclaw-gateway
systemctl start openclaw-gateway
sleep 5

part 'openclaw models set'
openclaw models set "$MODEL" >/dev/null

part 'gateway restarted, sleep 3'
systemctl restart openclaw-gateway
sleep 3

# Like the original's, these checks only tell; none of them fails or waits.
part 'checks, sleep 2, curl, cron and skills'
systemctl is-active openclaw-gateway || true
systemctl is-active caddy || true
ss -tlnp | grep ':18789' || true
ss -tlnp | grep ':80' || true
ss -tlnp | grep ':443' || true
sleep 2
curl -s -o /dev/null -w '%{http_code}\n' http://localhost:80 || true
mkdir -p /root/.openclaw/workspace/skills/welcome /root/.openclaw/cron
printf '# Welcome\n' >/root/.openclaw/workspace/skills/welcome/SKILL.md
printf '0 8 * * * root true\n' >/root/.openclaw/cron/daily
echo "$GATEWAY_TOKEN" >/root/.openclaw/gateway-token.txt
chmod 600 /root/.openclaw/gateway-token.txt
