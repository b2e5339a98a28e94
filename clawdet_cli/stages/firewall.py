"""The provider's firewall, one for the project: what of the internet reaches a VPS of ours at all.

```
port     from
22       the operator's networks; everywhere where none are given (it takes a key, and no password)
80, 443  Cloudflare's published networks: 80 only redirects
```
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

from clawdet_cli.adapters import Clouds
from clawdet_cli.adapters.retry import until
from clawdet_cli.errors import CloudError, ConfigError, ForeignNetworksError, InUseError, StateError, WaitError
from clawdet_cli.model import Firewall, FirewallRule, Server
from clawdet_cli.settings import Settings
from clawdet_cli.stages import ownership
from clawdet_cli.stages.runner import Run

NAME = ownership.FIREWALL
LABELS = ownership.LABELS
NETWORKS_PATIENCE = 5.0
"""Seconds for Cloudflare's list of its networks, where the last known one will do."""
RELEASE_SECONDS = 60.0
"""How long Hetzner may go on counting deleted servers as use of a firewall."""
POLL_SECONDS, MAX_POLL_SECONDS = 0.5, 8.0
CLOUDFLARE_NETWORKS_AT = "2026-11-30"
CLOUDFLARE_NETWORKS = frozenset(
    "173.245.48.0/20 103.21.244.0/22 103.22.200.0/22 103.31.4.0/22 141.101.64.0/18 108.162.192.0/18 190.93.240.0/20"
    " 188.114.96.0/20 197.234.240.0/22 198.41.128.0/17 162.158.0.0/15 104.16.0.0/13 104.24.0.0/14 172.64.0.0/13"
    " 131.0.72.0/22 2400:cb00::/32 2606:4700::/32 2803:f800::/32 2405:b500::/32 2405:8100::/32 2a06:98c0::/29"
    " 2c0f:f248::/32".split()
)
"""From where the edge connects (https://www.cloudflare.com/ips/), for when Cloudflare does not say it itself."""
EVERYWHERE = frozenset({"0.0.0.0/0", "::/0"})


def rules_for(edge: Iterable[str], ssh_from: Iterable[str]) -> tuple[FirewallRule, ...]:
    """Give the rules; everything that they do not name stays outside."""
    return (
        FirewallRule("22", frozenset(ssh_from), description="SSH, by key only; set by clawdet"),
        FirewallRule("80", frozenset(edge), description="Cloudflare, HTTP: redirects; set by clawdet"),
        FirewallRule("443", frozenset(edge), description="Cloudflare, HTTPS; set by clawdet"),
    )


def project_firewall(run: Run, *, list_needed: bool = False) -> Firewall:
    """Find or make the project's firewall, and see to it that its rules are those that are wanted now.

    `list_needed` is whether to fail where Cloudflare's list of its networks cannot be had.
    """
    hetzner = run.clouds.hetzner
    firewall = hetzner.firewall(NAME)
    if firewall is not None and not is_ours(firewall):
        raise StateError(
            f"A firewall named {NAME} exists in the Hetzner project that is not ours: nothing was touched.",
            next_steps=["rename it in the Hetzner console (Firewalls), then run the command again"],
        )
    ssh_from = _known(run.settings, firewall)
    if firewall is not None:
        _refuse_to_lock_out(run, firewall, ssh_from)
    edge, doubt = (run.clouds.cloudflare.edge_ranges(), "") if list_needed else edge_networks(run.clouds, firewall)
    if doubt:
        run.note(doubt)
    rules = rules_for(edge, ssh_from)
    if firewall is None:
        with run.effect("create_firewall", NAME, ssh_from=",".join(sorted(ssh_from))) as effect:
            firewall = hetzner.create_firewall(NAME, rules, LABELS)
            effect.made(firewall.id)
        run.note(f"firewall {NAME}: {described(rules)}")
        # Another run may have made it, a moment ago and with other rules: SSH stays as narrow as that made it.
        ssh_from = _known(run.settings, firewall)
        rules = rules_for(edge, ssh_from)
    if set(firewall.rules) != set(rules):
        with run.effect("set_firewall_rules", NAME, on=firewall, ssh_from=",".join(sorted(ssh_from))):
            hetzner.set_firewall_rules(firewall, rules)
        for rule in set(firewall.rules) - set(rules):
            run.note(f"firewall {NAME}: took out {_described(rule)}")
        run.note(f"firewall {NAME}: {described(rules)}")
    return firewall


def _refuse_to_lock_out(run: Run, firewall: Firewall, ssh_from: frozenset[str]) -> None:
    """Raise ForeignNetworksError for networks that would go and that no run of this database has let in."""
    if run.settings.replace_ssh_from:
        return
    wanted = [ip_network(network) for network in ssh_from]
    going = [network for network in ssh_sources(firewall) if not any(_is_within(network, one) for one in wanted)]
    foreign = sorted(set(going) - run.state.ssh_networks()) if going else []
    if foreign:
        refresh = "clawdet firewall refresh --ssh-from"
        own, both = (",".join(sorted(networks)) for networks in (ssh_from, ssh_from | set(foreign)))
        raise ForeignNetworksError(
            f"The firewall {NAME} lets in to SSH {', '.join(foreign)}, which nobody here has set: somebody else may"
            " work in this project, and would be locked out of all its servers. Nothing was changed.",
            next_steps=[
                f"{refresh} {both}    (lets in both)",
                f"{refresh} {own} --replace-ssh-from    (locks them out)",
            ],
        )


def _is_within(network: str, wanted: IPv4Network | IPv6Network) -> bool:
    found = ip_network(network, strict=False)
    if isinstance(found, IPv4Network):
        return isinstance(wanted, IPv4Network) and found.subnet_of(wanted)
    return isinstance(wanted, IPv6Network) and found.subnet_of(wanted)


def wanted_rules(settings: Settings, clouds: Clouds, firewall: Firewall | None) -> tuple[FirewallRule, ...]:
    """Give the rules that are wanted now; the one for SSH has no source where nobody knows them."""
    return rules_for(edge_networks(clouds, firewall)[0], _ssh_from(settings, firewall))


def edge_networks(clouds: Clouds, firewall: Firewall | None) -> tuple[frozenset[str], str]:
    """Return Cloudflare's networks, and a warning where its list could not be had: then they are as they were last."""
    try:
        return clouds.cloudflare.hurried(NETWORKS_PATIENCE).edge_ranges(), ""
    except (CloudError, ConfigError, WaitError) as error:
        rules = firewall.rules if firewall is not None and is_ours(firewall) else ()
        let_in = frozenset[str]().union(
            *(rule.sources for rule in rules if (rule.protocol, rule.port) == ("tcp", "443"))
        )
        networks = let_in or CLOUDFLARE_NETWORKS
        since = "the firewall has them" if let_in else f"they were on {CLOUDFLARE_NETWORKS_AT}"
        return networks, f"Cloudflare's networks are left as {since}: {error.what}"


def _ssh_from(settings: Settings, firewall: Firewall | None) -> frozenset[str]:
    """Give who may reach SSH: as it is set, else as it is, since it must not open by itself."""
    return settings.ssh_from or (EVERYWHERE if firewall is None else ssh_sources(firewall))


def _known(settings: Settings, firewall: Firewall | None) -> frozenset[str]:
    """Give who may reach SSH. Raises StateError where hands left no rule that says it."""
    sources = _ssh_from(settings, firewall)
    if not sources and firewall is not None:
        raise StateError(
            f"The firewall {NAME} has no rule for port 22 alone any more, so nobody knows who may reach SSH: nothing"
            " was changed.",
            details=[f"it lets in: {described(firewall.rules) or 'nothing'}"],
            next_steps=[
                "name the networks (0.0.0.0/0,::/0 is everywhere): clawdet firewall refresh --ssh-from NETWORKS",
            ],
        )
    return sources


def ssh_sources(firewall: Firewall) -> frozenset[str]:
    """Give the networks that may reach SSH."""
    return frozenset[str]().union(
        *(rule.sources for rule in firewall.rules if (rule.direction, rule.protocol, rule.port) == ("in", "tcp", "22"))
    )


def attach(run: Run, server: Server, firewall: Firewall) -> None:
    """Put a server behind the firewall if it is not: one that was detached by hand, or made without."""
    if firewall.id not in server.firewall_ids:
        with run.effect("attach_firewall", server.name, on=server, firewall=firewall.id):
            run.clouds.hetzner.attach_firewall(firewall.id, server.id)
        run.note(f"the server {server.name} was put behind the firewall {NAME}")


def delete_firewall(run: Run) -> None:
    """Delete the project's firewall when no server of ours is left that it protects."""
    hetzner = run.clouds.hetzner
    firewall = hetzner.firewall(NAME)
    if firewall is None or not is_ours(firewall) or hetzner.servers("managed-by=clawdet"):
        return
    if firewall.in_use and _protects_others(run, firewall):
        run.note(f"the firewall {NAME} protects servers that are not clawdet's, and was left there")
        return

    def delete() -> tuple[bool]:
        """Return whether it was deleted; not where another run has ordered a server meanwhile."""
        try:
            with run.effect("delete_firewall", str(firewall.id), on=firewall, firewall=NAME):
                hetzner.delete_firewall(firewall.id)
        except InUseError:
            if hetzner.servers("managed-by=clawdet"):
                return (False,)
            raise
        return (True,)

    try:
        # Hetzner counts a server as use for a while after it is gone, and nothing but DELETE tells how long.
        (deleted,) = until(
            delete,
            deadline=run.deadline.within(RELEASE_SECONDS),
            what=f"the firewall {NAME} to be released",
            every=POLL_SECONDS,
            most=MAX_POLL_SECONDS,
            catching=(InUseError,),
        )
    except WaitError as error:
        if error.unsettled is not None:
            raise  # the call itself got no answer
        run.note(
            f"Hetzner says that the firewall {NAME} is still in use, although its last server is gone: it was left"
            " there. It costs nothing, and the next provision uses it; 'clawdet reconcile' says whether it is still"
            " there."
        )
        return
    if deleted:
        run.removed.append(f"firewall {NAME} in the Hetzner project")


def _protects_others(run: Run, firewall: Firewall) -> bool:
    """Return whether it is attached to a server that exists: a deleted one may stay in its list for a while."""
    return any(server.id in firewall.servers for server in run.clouds.hetzner.all_servers())


def is_ours(firewall: Firewall) -> bool:
    """Say whether clawdet made it."""
    return ownership.is_project_firewall(firewall)


def described(rules: Iterable[FirewallRule]) -> str:
    """Say in a few words who may reach what."""
    return "; ".join(_described(rule) for rule in rules)


def _described(rule: FirewallRule) -> str:
    what = {"22": "SSH", "80": "HTTP", "443": "HTTPS"}.get(rule.port, f"{rule.direction} {rule.protocol} {rule.port}")
    if not rule.sources:
        return f"{what} from the networks that --ssh-from names"
    if rule.sources == EVERYWHERE:
        return f"{what} from everywhere" + (" (by key only; --ssh-from narrows it)" if rule.port == "22" else "")
    if rule.port in {"80", "443"} and rule.protocol == "tcp":
        return f"{what} from Cloudflare's {len(rule.sources)} networks"
    return f"{what} from {', '.join(sorted(rule.sources))}"
