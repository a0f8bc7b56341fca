"""Longer ways: a host of the lab behind two routers, with one hop of any MTU between them.

    gw ── near ── far ── host       near and far are ordinary Linux routers of the host's family
          hop: near ── far

Router addresses of IPv6 have no IPv4 form: their ICMP errors reach IPv4 hosts under an address of the gateway's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from e2e.lab.topology import GATEWAY, SERVER4, SERVER6, Host

if TYPE_CHECKING:
    from e2e.lab.run import LabRun

WIDE = 12_000  # of every link but the hop


def router(host: Host, place: str) -> str:
    """Role of a router on the host's way: `near` or `far` from the gateway."""
    return f"{place}{host.family}"


def add_distant(lab: LabRun, host: Host, *, mtu: int = WIDE) -> None:
    """Makes a host's namespace behind two routers; its MTU and that of every link is `mtu`."""
    near, far = router(host, "near"), router(host, "far")
    for role in (near, far, host.role):
        lab.add_netns(role)
    for role in (near, far):
        for key in ("ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding", "ipv6/conf/default/forwarding"):
            lab.sysctl(role, f"net/{key}", "1")
        lab.sysctl(role, "net/ipv4/icmp_ratelimit", "0")
        lab.sysctl(role, "net/ipv6/icmp/ratelimit", "0")
    lab.add_veth(near, "up", GATEWAY, host.role, mtu)
    lab.add_veth(far, "up", near, "down", mtu)
    lab.add_veth(host.role, "up", far, "down", mtu)
    (_route6 if host.family == 6 else _route4)(lab, host, near, far)


def _route6(lab: LabRun, host: Host, near: str, far: str) -> None:
    up, down, gateway = lab.device("up"), lab.device("down"), lab.device(host.role)
    lab.ip(
        GATEWAY,
        f"addr add fe80::1/64 dev {gateway} nodad",
        f"addr add {host.gateway_address} dev {gateway} nodad",
        f"route add {host.address}/128 via fe80::2 dev {gateway}",
    )
    for role, own in ((near, "2001:db8:aa::1"), (far, "2001:db8:aa::2")):
        lab.ip(
            role,
            f"addr add fe80::2/64 dev {up} nodad",
            f"addr add fe80::1/64 dev {down} nodad",
            f"addr add {own}/128 dev lo",
            f"route add default via fe80::1 dev {up}",
        )
    lab.ip(near, f"route add {host.address}/128 via fe80::2 dev {down}")
    lab.ip(far, f"route add {host.address}/128 dev {down}")
    lab.ip(host.role, f"addr add {host.address}/128 dev {up} nodad", f"route add default via fe80::1 dev {up}")


def _route4(lab: LabRun, host: Host, near: str, far: str) -> None:
    up, down, gateway = lab.device("up"), lab.device("down"), lab.device(host.role)
    lab.ip(
        GATEWAY,
        f"addr add {host.gateway_address.split('/')[0]}/30 dev {gateway}",
        f"route add {host.address}/32 via 203.0.113.2 dev {gateway}",
    )
    lab.ip(near, f"addr add 203.0.113.2/30 dev {up}", f"addr add 203.0.113.5/30 dev {down}")
    lab.ip(near, f"route add default via 203.0.113.1 dev {up}")
    lab.ip(near, f"route add {host.address}/32 via 203.0.113.6 dev {down}")
    lab.ip(far, f"addr add 203.0.113.6/30 dev {up}", f"addr add 203.0.113.17/29 dev {down}")
    lab.ip(far, f"route add default via 203.0.113.5 dev {up}")
    lab.ip(host.role, f"addr add {host.address}/29 dev {up}", f"route add default via 203.0.113.17 dev {up}")


def set_hop(lab: LabRun, host: Host, mtu: int) -> None:
    """The hop of the host's way gets an MTU, and every host forgets what it has learnt of paths."""
    lab.ip(router(host, "near"), f"link set {lab.device('down')} mtu {mtu}")
    lab.ip(router(host, "far"), f"link set {lab.device('up')} mtu {mtu}")
    _forget(lab)


def set_gateway_hop(lab: LabRun, host: Host, mtu: int) -> None:
    """The same for the link between the gateway and the first router towards the host.

    Linux has no IPv6 on a device of less than 1280 bytes, and bpf_fib_lookup() then finds no IPv6 route for packets
    that come from it; a gateway's devices are larger, and a narrower IPv4 path is a matter of its route.
    """
    lab.ip(GATEWAY, f"link set {lab.device(host.role)} mtu {max(mtu, 1280)}")
    lab.ip(router(host, "near"), f"link set {lab.device('up')} mtu {mtu}")
    if host.family == 4:
        lab.ip(GATEWAY, f"route replace {host.address}/32 via 203.0.113.2 dev {lab.device(host.role)} mtu lock {mtu}")
    _forget(lab)


def _forget(lab: LabRun) -> None:
    for role in lab.roles():
        for words in (["-4", "route", "flush", "cache"], ["-6", "route", "flush", "cache"], ["tcp_metrics", "flush"]):
            lab.run(role, ["ip", *words])


DISTANT = (SERVER4, SERVER6)
