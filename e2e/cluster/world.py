"""The network that the cluster lives in: a router, the nodes' namespaces, hosts outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from e2e.cluster import plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from e2e.lab.run import LabRun

UNDER = "under"
FORWARDING = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")


def build(lab: LabRun, nodes: Sequence[plan.Node]) -> None:
    """All namespaces, devices and routes; nothing runs in them yet."""
    lab.add_netns(UNDER)
    for key in FORWARDING:
        lab.sysctl(UNDER, key, "1")
    lab.ip(UNDER, "link add br0 type bridge", "link set br0 up",
           f"addr add {plan.ROUTER4}/24 dev br0", f"addr add {plan.ROUTER6}/64 dev br0 nodad")  # fmt: skip
    for node in nodes:
        _join(lab, node.name, f"u-{node.name}", "br0")
        lab.ip(node.name, f"addr add {node.ipv6}/64 dev eth0 nodad", f"addr add {node.ipv4}/24 dev eth0",
               f"route add default via {plan.ROUTER4}", f"route add default via {plan.ROUTER6}",
               *(f"route add {o.pods4} via {o.ipv4}" for o in nodes if o != node),
               *(f"route add {o.pods6} via {o.ipv6}" for o in nodes if o != node))  # fmt: skip
        for key in (*FORWARDING, "net/ipv4/conf/all/route_localnet"):
            lab.sysctl(node.name, key, "1")
        lab.ip(UNDER, f"route add {node.pods4} via {node.ipv4}", f"route add {node.pods6} via {node.ipv6}")
    _outside(lab)


def _join(lab: LabRun, role: str, name: str, bridge: str) -> None:
    """A namespace with a device `eth0` on a bridge of the router."""
    netns = lab.add_netns(role)
    lab.ip(UNDER, f"link add {name} mtu {plan.MTU} type veth peer name eth0 mtu {plan.MTU} netns {netns}",
           f"link set {name} master {bridge} up")  # fmt: skip
    lab.ip(role, "link set eth0 up")


def _outside(lab: LabRun) -> None:
    lab.ip(UNDER, "link add br1 type bridge", "link set br1 up", "addr add 203.0.113.1/24 dev br1",
           "addr add 2001:db8:f00d::1/64 dev br1 nodad")  # fmt: skip
    hosts = {"out4": (plan.OUT4, ""), "out6": ("", plan.OUT6), "out": (plan.BOTH4, plan.BOTH6)}
    for role, (ipv4, ipv6) in hosts.items():
        _join(lab, role, role, "br1")
        if ipv4:
            lab.ip(role, f"addr add {ipv4}/24 dev eth0", "route add default via 203.0.113.1")
        if ipv6:
            lab.ip(role, f"addr add {ipv6}/64 dev eth0 nodad", "route add default via 2001:db8:f00d::1")


def route_gateway(lab: LabRun, node: plan.Node, prefix: str = plan.NAT64_PREFIX, pool: str = plan.GATEWAY_POOL) -> None:
    """The router sends what a NAT46Gateway is for to `node`, as BGP or a static route would."""
    route_to(lab, node, prefix, pool)


def route_to(lab: LabRun, node: plan.Node, ipv6: str, ipv4: str) -> None:
    """The router sends two networks or addresses to `node`."""
    lab.ip(UNDER, f"route replace {ipv6} via {node.ipv6}", f"route replace {ipv4} via {node.ipv4}")
