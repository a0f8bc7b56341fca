"""Traffic through what a cluster shares with the world outside: balancers, egress gateways, resolvers."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any

from e2e.cluster import hosts, plan, proofs, world
from e2e.cluster.cluster import ClusterError
from e2e.cluster.hosts import PORT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from e2e.cluster.proofs import Scene

API = "sixgate.io/v1alpha1"
BALANCER, EXIT = "web", "exit"
CLIENTS = 40  # connections that are spread; all of them to one of two backends has a chance of 2 in 10^12


def load_balancer(scene: Scene) -> str:
    """Outside hosts of both families reach virtual addresses at n1, and pods with the network of two other nodes answer
    them straight away."""
    hosts.node_pods(scene.cluster, scene.release.image, BALANCER, ("n2", "n3"))
    service = {"service": {"namespace": "default", "name": BALANCER}}
    return _balanced(scene, {"n2", "n3"}, {**service, "forwarding": {"mode": "DSR"}})


def load_balancer_nat(scene: Scene) -> str:
    """The same for pods that know nothing of it: an IPv6-only one is reached from an IPv4-only host."""
    names = ("v6", "both2")
    listed = [next(text for text in scene.pods[name].addresses if ":" in text) for name in names]
    backends = {"backends": [{"address": address} for address in listed]}
    return _balanced(scene, set(names), {**backends, "forwarding": {"mode": "NAT"}})


def _balanced(scene: Scene, names: set[str], spec: dict[str, Any]) -> str:
    """Every one of `names` must answer, to clients of both families; the object is removed again: its nodes are to be
    gateways, which needs the same hooks."""
    cluster = scene.cluster
    cluster.kubectl("label", "node", "n1", "sixgate.io/edge=yes", "--overwrite")
    world.route_to(cluster.lab, cluster.nodes["n1"].node, plan.VIP6, plan.VIP4)
    cluster.apply({
        "apiVersion": API, "kind": "LoadBalancer", "metadata": {"name": BALANCER},
        "spec": {"nodeSelector": {"matchLabels": {"sixgate.io/edge": "yes"}}, "vips": [plan.VIP4, plan.VIP6],
                 "devices": ["eth0"], "ports": [{"name": "traffic", "port": PORT}], **spec,
                 "healthCheck": {"type": "TCP", "intervalMilliseconds": 500, "timeoutMilliseconds": 400}},
    })  # fmt: skip
    told = []
    try:
        scene.release.wait_object("loadbalancer", BALANCER, 0)
        for role, vip in (("out4", plan.VIP4), ("out6", plan.VIP6)):
            answered = _who_answers(scene, role, vip, CLIENTS)
            if answered != names:
                raise ClusterError(f"{sorted(names)} must answer {role} at {vip}, and these did: {sorted(answered)}.")
            told.append(f"{role} to {vip}: {', '.join(sorted(answered))}")
    finally:
        cluster.kubectl("delete", "loadbalancer", BALANCER)
    return "; ".join(told)


def _who_answers(scene: Scene, role: str, host: str, times: int) -> set[str]:
    """Names of the machines that answered so many connections of an outside host."""
    return set(hosts.ask_outside(scene.cluster, role, "names", host, str(PORT), "--connections", str(times)))


def egress(scene: Scene) -> str:
    """A selected pod is seen outside under the gateway's addresses, another pod of its node under its own."""
    cluster = scene.cluster
    cluster.kubectl("label", "node", "n3", "sixgate.io/egress=yes", "--overwrite")
    outside = (plan.BOTH4, plan.BOTH6)
    before = [scene.pods["both"].ask(host) for host in outside]
    if set(before) != set(scene.pods["both"].addresses):
        raise ClusterError(f"Without a gateway the server must see {scene.pods['both'].addresses}, and saw {before}.")
    cluster.apply({
        "apiVersion": API, "kind": "EgressGateway", "metadata": {"name": EXIT},
        "spec": {"nodeSelector": {"matchLabels": {"sixgate.io/egress": "yes"}},
                 "pods": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
                           "podSelector": {"matchLabels": {"app": "both"}}}],
                 "destinationCIDRs": [f"{plan.BOTH4}/32", f"{plan.BOTH6}/128"],
                 "addresses": [{"ipv4": plan.EXIT4, "ipv6": plan.EXIT6}]},
    })  # fmt: skip
    scene.release.wait_object("egressgateway", EXIT, 0)
    wanted = [plan.EXIT4, plan.EXIT6]
    seen: Sequence[str] = ()

    def look() -> bool:
        nonlocal seen
        seen = [scene.pods["both"].ask(host) for host in outside]
        return list(seen) == wanted

    try:
        cluster.wait("the gateway's addresses", look, 15)
    except ClusterError as error:
        raise ClusterError(f"{error} The server must see {wanted}, and it saw {seen}.") from error
    other = [scene.pods["both2"].ask(host) for host in outside]
    if set(other) != set(scene.pods["both2"].addresses):
        raise ClusterError(f"A pod that is not selected must keep {scene.pods['both2'].addresses}; it was {other}.")
    return f"pod both on n2 is {' and '.join(seen)} outside, through n3; pod both2 stays {' and '.join(other)}"


def dns64(scene: Scene) -> str:
    """An IPv6-only pod asks the chart's resolver for a name with an IPv4 address only, and reaches it by that name."""
    cluster = scene.cluster
    hosts.name_server(cluster, "out", {plan.V4_NAME: plan.OUT4})
    gateway: dict[str, Any] = proofs.stateful()
    gateway["spec"]["dns64"] = {
        "upstreams": [{"address": plan.BOTH6}], "clientCIDRs": plan.POD_CIDRS.split(","), "validateDNSSEC": False,
    }  # fmt: skip
    cluster.apply(gateway)
    scene.release.wait_object("nat46gateway", proofs.POOL, 0, 60)
    pod, name = scene.pods["v6"], plan.V4_NAME
    wanted = str(IPv6Address(plan.translated(plan.OUT4, plan.STATEFUL_PREFIX)))
    found = cluster.wait(f"an address of {name}", lambda: pod.python("resolve", name, check=False), 60, 1)
    if found != wanted:
        raise ClusterError(f"The pod must be told {wanted} of {name}, and it was told {found}.")
    seen = pod.ask(name)
    if not seen.startswith(plan.STATEFUL_POOL.rsplit(".", 1)[0]):
        raise ClusterError(f"{name} must see {plan.STATEFUL_POOL}, and it saw {seen or 'nobody'}.")
    return f"{name} is {found} to a pod on n3, and sees it as {seen}"
