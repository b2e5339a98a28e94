"""What each kind of effect looks like on the wire of both clouds, and in the servers' command logs."""

import re
from collections import Counter

from tests.e2e.operator import Operator

CALLS = {
    "add_ssh_key": ("POST", "/v1/ssh_keys"),
    "create_firewall": ("POST", "/v1/firewalls"),
    "set_firewall_rules": ("POST", "/v1/firewalls/[0-9]+/actions/set_rules"),
    "attach_firewall": ("POST", "/v1/firewalls/[0-9]+/actions/apply_to_resources"),
    "create_server": ("POST", "/v1/servers"),
    "label_server": ("PUT", "/v1/servers/[0-9]+"),
    "create_dns_record": ("POST", "/client/v4/zones/[0-9a-f]+/dns_records"),
    "update_dns_record": ("PATCH", "/client/v4/zones/[0-9a-f]+/dns_records/[0-9a-f]+"),
    "sign_certificate": ("POST", "/client/v4/certificates"),
    "delete_dns_record": ("DELETE", "/client/v4/zones/[0-9a-f]+/dns_records/[0-9a-f]+"),
    "revoke_certificate": ("DELETE", "/client/v4/certificates/[0-9]+"),
    "delete_server": ("DELETE", "/v1/servers/[0-9]+"),
    "delete_ssh_key": ("DELETE", "/v1/ssh_keys/[0-9]+"),
    "delete_firewall": ("DELETE", "/v1/firewalls/[0-9]+"),
}
COMMANDS = {
    "join_boot": r"if \[ ! -d /run/clawdet/boot .*",
    "upload": r"umask 077; (rm -f /run/clawdet/\*/input; |mkdir -p /run/clawdet/bundles && cat >).*",
    "start": r'if \[ "\$\(systemctl show .* echo started',
    "make_vps_key": r".*provision-openclaw\.sh certificate-request .*",
    "make_host_key": r".*provision-openclaw\.sh host-key",
    "switch_host_key": r".*provision-openclaw\.sh switch-host-key .*",
    "approve_device": r"openclaw devices approve .*",
    "claim_server": r".*provision-openclaw\.sh claim .*",
    "reboot_vps": r"if \[ -e /run/reboot-required \]; then systemctl reboot; fi",
    "put_nonce": r".*provision-openclaw\.sh nonce .*",
}
READING = (
    r"if grep -qsx lock_sha256=.*",
    *(r"uname -m", r"p=\$\(systemctl show -P MainPID .*", r".*provision-openclaw\.sh (report|token)"),
    r"openclaw devices list --json",
    r"if \[ -e /run/reboot-required \]; then echo yes; fi",
)
"""What is asked over SSH and changes nothing; any other command must be one of COMMANDS."""


def forget(operator: Operator) -> None:
    """Begin to count anew."""
    for cloud in ("hetzner", "cloudflare"):
        operator.control(cloud, "DELETE", "requests")
    operator.control("hetzner", "DELETE", "servers/commands")


def changes(operator: Operator) -> Counter[str]:
    """Return the kinds of all changes that were asked for since then; what is of no kind stands for itself."""
    seen = Counter[str]()
    for cloud in ("hetzner", "cloudflare"):
        for request in operator.control(cloud, "GET", "requests")["requests"]:
            if request["method"] != "GET":
                seen[kind_of_call(request["method"], request["path"])] += 1
    for asked in operator.control("hetzner", "GET", "servers/commands")["commands"]:
        if not any(re.fullmatch(pattern, asked, re.DOTALL) for pattern in READING):
            seen[kind_of_command(asked)] += 1
    return seen


def kind_of_call(method: str, path: str) -> str:
    fits = [kind for kind, (verb, pattern) in CALLS.items() if verb == method and re.fullmatch(pattern, path)]
    return fits[0] if fits else f"{method} {path}"


def kind_of_command(asked: str) -> str:
    fits = [kind for kind, pattern in COMMANDS.items() if re.fullmatch(pattern, asked, re.DOTALL)]
    return fits[0] if fits else asked
