"""The whole of it: install, prove with traffic, upgrade and break things under load, uninstall; prints every figure.

python -m e2e.cluster [--json FILE] [--only STEP ...] [--keep]     a cluster of three nodes, made and removed
KUBECONFIG=FILE python -m e2e.cluster [--image NAME:TAG]           an existing cluster: what can be shown from outside
"""

from __future__ import annotations

import sys
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.harness import Goal, Report, Row, progress
from e2e.cluster import build, foreign, gateways, hosts, objects, plan, proofs, traces, trouble
from e2e.cluster.cluster import Cluster, ClusterError
from e2e.cluster.proofs import Scene
from e2e.cluster.release import NAMESPACE, Installed, Release

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY, TAG, NEXT = "sixgate.io/sixgate", "e2e", "e2e-next"
VALUES = {"agent.announce": True, "dns64.enabled": True, "dns64.gateways": [proofs.POOL]}
# kube-proxy's rules keep `Auto` from passing larger packets around the kernel's forwarding.
LIVE = {**VALUES, "enableIPv6BIGTCP": True, "agent.enterPodNamespaces": True, "bigTCP.pods": "Live",
        "bigTCP.forwarding": "Redirect"}  # fmt: skip
WRONG_VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "enableIPv6BigTCP": ({"enableIPv6BigTCP": True}, "enableIPv6BigTCP"),
    "operator.replicas": ({"operator.replicas": "two"}, "replicas"),
    "agent.tolerations": ({"agent.tolerations": "all"}, "tolerations"),
    "bigTCP.pods": ({"bigTCP.pods": "Sometimes"}, "pods"),
    "nat46Gateway.spec": ({"nat46Gateway.enabled": True}, "nat46Gateway.spec"),
    "Live without the capability": ({"bigTCP.pods": "Live"}, "agent.enterPodNamespaces"),
}


@dataclass(slots=True)
class Run:
    """One run; a step that fails is a row that misses its goal, and the steps after it are still tried."""

    report: Report = field(default_factory=lambda: Report("sixgate in a real cluster of three nodes"))
    failures: list[str] = field(default_factory=list)
    only: tuple[str, ...] = ()  # parts of the names of the steps that are done; empty for all

    def figure(self, metric: str, unit: str, value: float, goal: Goal | None = None, note: str = "") -> None:
        self.report.rows.append(Row(metric, unit, (value,), goal=goal, note=note))

    def step(self, name: str, work: Callable[[], object], *, always: bool = False) -> None:
        """A row `name`, 1 where `work` went right; what it returns as text is the note. `always`: others need it."""
        if self.only and not always and not any(part in name for part in self.only):
            return
        progress(name)
        began = time.monotonic()
        try:
            told = work()
            note, well = (told if isinstance(told, str) else ""), 1
        except Exception as error:
            if not isinstance(error, ClusterError | RuntimeError):
                traceback.print_exc()
            note, well = str(error)[:1500], 0
            self.failures.append(f"{name}: {note}")
            progress(f"FAILED: {note}")
        spent = f"{time.monotonic() - began:.1f} s"
        self.figure(name, "proved", well, Goal("value", "==", 1), f"{note}; {spent}" if note else spent)


def whole(report: Run, keep: Callable[[Cluster], None] | None = None) -> None:
    """Everything, on a cluster of our own; `keep`, where given, is called before it is removed."""
    began = time.monotonic()
    image = build.build(f"{REPOSITORY}:{TAG}")
    rebuilt = build.build(f"{REPOSITORY}:{NEXT}", label="next")
    report.figure("size of the image", "MB", image.bytes / 1e6, Goal("value", "<=", 350))
    report.figure("image built, unchanged layers kept", "s", time.monotonic() - began)
    with Cluster.start(3) as cluster:
        report.figure("from nothing to three Ready nodes", "s", cluster.seconds["ready"], Goal("value", "<=", 30))
        imported = time.monotonic()
        for archive in (image.archive, rebuilt.archive):
            cluster.import_image(archive)
        report.figure("two images imported on three nodes", "s", time.monotonic() - imported)
        release = Release(cluster, REPOSITORY, TAG)
        scene = Scene(cluster, release, {})
        scene.bare = {name: traces.addresses(running) for name, running in cluster.nodes.items()}
        report.step("values that are wrong are refused, with the key named", lambda: wrong_values(release))
        report.step("helm 3 install", lambda: install(report, scene), always=True)
        _proofs(report, scene)
        _troubles(report, scene)
        _ends(report, scene)
        if keep:
            keep(cluster)
    report.figure("whole run", "s", time.monotonic() - began, Goal("value", "<=", 600))


def existing(report: Run, image: str) -> None:
    """What can be shown on the cluster of $KUBECONFIG, with an image that it can pull."""
    repository, _, tag = image.rpartition(":")
    release = Release(foreign.cluster(), repository, tag)
    scene = Scene(release.cluster, release, {})
    before = objects.not_ours(release.cluster)
    report.step("values that are wrong are refused, with the key named", lambda: wrong_values(release))
    report.step("helm 3 install", lambda: _installed(report, release.install()), always=True)
    report.step("every example is taken", lambda: objects.apply_examples(scene))
    report.step("helm test sends packets", lambda: helm_test(scene))
    report.step("nobody of sixgate writes what Git owns", lambda: objects.no_drift(scene))
    report.step("helm uninstall", lambda: f"{release.uninstall():.1f} s", always=True)
    report.step("what was not there before is removed", lambda: objects.tidy(release.cluster, before), always=True)


def install(report: Run, scene: Scene) -> None:
    cluster = scene.cluster
    _installed(report, scene.release.install(VALUES))
    scene.release.wait_object("bigtcppolicy", "default", 3)
    for role in ("out4", "out6", "out"):
        hosts.outside(cluster, role)
    resolver = cluster.find("service", f"sixgate-dns64-{proofs.POOL}", NAMESPACE)
    wanted = {"v6": ("n3", plan.V6ONLY), "v6local": ("n1", plan.V6ONLY), "both": ("n2", "default"),
              "both2": ("n2", "default")}  # fmt: skip
    asked = [address for address in resolver["spec"]["clusterIPs"] if ":" in address]
    scene.pods.update(hosts.pods(cluster, scene.release.image, wanted, asked))


def _installed(report: Run, took: Installed) -> None:
    report.figure("install to all agents Ready", "s", took.agents, Goal("value", "<=", 30))
    report.figure("helm install --wait", "s", took.helm, note=took.told())


def wrong_values(release: Release) -> str:
    for major in (3, 4):
        release.major = major
        for name, (values, key) in WRONG_VALUES.items():
            told = release.refused(values)
            if key not in told:
                raise ClusterError(f"Helm {major} must name {key} when it refuses {name}, and it said: {told.strip()}")
    release.major = 3
    return f"{len(WRONG_VALUES)} kinds, by Helm 3 and 4"


def _proofs(report: Run, scene: Scene) -> None:
    report.step("LoadBalancer, DSR: from outside to pods", lambda: gateways.load_balancer(scene))
    report.step("LoadBalancer, NAT: from outside to IPv6-only pods", lambda: gateways.load_balancer_nat(scene))
    report.step("NAT64 by a prefix and a pool", lambda: proofs.nat64_stateful(scene), always=True)
    report.step("kubectl sixgate trace, node by node", lambda: proofs.traced(scene))
    report.step("DNS64: a name with an IPv4 address only", lambda: gateways.dns64(scene))
    report.step("NAT64: IPv6-only pod to IPv4-only host", lambda: proofs.nat64(scene), always=True)
    report.step("NAT46: IPv4-only host to IPv6-only pod", lambda: proofs.nat46(scene))
    report.step("every example is taken", lambda: objects.apply_examples(scene))
    report.step("helm test sends packets", lambda: helm_test(scene))
    report.step("an agent writes its own status and nothing else", lambda: attack(report, scene))
    report.step("idle costs", lambda: idle(report, scene))


def helm_test(scene: Scene) -> str:
    told = scene.cluster.helm("test", "sixgate", "--namespace", "sixgate-system", "--logs", "--timeout", "60s").stdout
    return told.rsplit("POD LOGS: sixgate-test", 1)[-1].strip().replace("\n", " ")


def attack(report: Run, scene: Scene) -> str:
    written = trouble.attack(scene)
    report.figure("foreign NodeConfigs and specs that an agent could write", "writes", written, Goal("value", "==", 0))
    return "asked with the token in the agent's pod"


def idle(report: Run, scene: Scene) -> None:
    for word, limit in (("agent", 100), ("operator", 200)):
        used = traces.cpu_percent(scene.cluster, word, 15)
        report.figure(f"idle CPU of an {word}, the busiest", "% of a core", max(used), Goal("value", "<=", 1))
        resident = traces.rss_mib(scene.cluster, word)
        report.figure(f"RSS of an {word}, the largest", "MiB", max(resident), Goal("value", "<=", limit))


def _troubles(report: Run, scene: Scene) -> None:
    report.step("rolling upgrade under load", lambda: upgrade(report, scene))
    report.step("BIG TCP in pods", lambda: big_tcp(report, scene))
    # Not before: a device of pods has one program of sixgate, and that of egress lets no larger packet by.
    report.step("EgressGateway: source addresses as seen outside", lambda: gateways.egress(scene))
    report.step("operators killed", lambda: f"a change reached all nodes {trouble.operators_killed(scene):.1f} s later")
    report.step("agents killed under load", lambda: agents_killed(report, scene))
    report.step("API server restarted under load", lambda: outage(report, scene))
    report.step("gateway node killed", lambda: trouble.node_killed(scene))
    report.step("a node without BPF file system says so", lambda: trouble.bpffs_missing(scene))
    report.step("nobody of sixgate writes what Git owns", lambda: objects.no_drift(scene))
    report.step("1,000 objects", lambda: thousand(report, scene))


def _lossless(report: Run, what: str, result: dict[str, object]) -> str:
    for key, metric in (("resets", "connections reset"), ("lost", "packets lost")):
        report.figure(f"{metric}, {what}", key, float(str(result[key])), Goal("value", "==", 0))
    told = f"{result['connections']} connections, {result['packets_per_s']} packets/s for {result['seconds']} s"
    return f"{told}, slowest answer {result['worst_ms']} ms" + (f", {result['why']}" if result["why"] else "")


def upgrade(report: Run, scene: Scene) -> str:
    return _lossless(report, "rolling upgrade", trouble.upgrade(scene, NEXT, LIVE))


def agents_killed(report: Run, scene: Scene) -> str:
    result = trouble.under_load(scene, 60, lambda: trouble.agents_killed(scene))
    return _lossless(report, "agents killed", result)


def outage(report: Run, scene: Scene) -> str:
    result = trouble.under_load(scene, 60, lambda: trouble.apiserver_restarted(scene))
    return _lossless(report, "API server away", result)


def big_tcp(report: Run, scene: Scene) -> str:
    scene.release.wait_object("bigtcppolicy", "default", 3)
    sizes = scene.cluster.wait("192 KB in pods", lambda: _large(proofs.big_tcp_sizes(scene)), 30, 1)
    report.figure("largest IPv6 packet that a pod may send", "bytes", min(size for size, _ in sizes.values()),
                  Goal("value", ">=", 196608))  # fmt: skip
    report.figure(
        "largest packet seen between two pods", "bytes", proofs.largest_packet(scene), Goal("value", ">=", 65537)
    )
    return str(sizes)


def _large(sizes: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return sizes if all(gso >= 196608 for where, (gso, _) in sizes.items() if where.startswith("pod")) else {}


def thousand(report: Run, scene: Scene) -> None:
    documents: list[dict[str, Any]] = [
        {"apiVersion": "sixgate.io/v1alpha1", "kind": "BIGTCPPolicy",
         "metadata": {"name": f"many-{number}", "labels": {"many": "yes"}},
         "spec": {"nodeSelector": {"matchLabels": {"group": f"g{number}"}}, "ipv6": {}}}
        for number in range(1000)
    ]  # fmt: skip
    scene.cluster.apply(*documents)
    scene.cluster.wait("a status of every object", lambda: _all_told(scene), 60)
    resident = traces.rss_mib(scene.cluster, "operator")
    report.figure("RSS of an operator at 1,000 objects", "MiB", max(resident), Goal("value", "<=", 200))
    scene.cluster.kubectl("delete", "bigtcppolicy", "-l", "many=yes", "--wait=false")


def _all_told(scene: Scene) -> bool:
    found = scene.cluster.items("bigtcppolicies", "-l", "many=yes")
    return len(found) == 1000 and all("status" in item for item in found)


def _ends(report: Run, scene: Scene) -> None:
    report.step("helm uninstall leaves nothing", lambda: uninstall(scene))
    report.step("all that KUBECONFIG can show, as on somebody else's cluster", lambda: foreign.whole(scene))
    report.step("helm 4 install, uninstall that keeps the data plane", lambda: keep(scene))
    report.step("helm 4 uninstall leaves nothing", lambda: leave_again(scene))


def uninstall(scene: Scene) -> str:
    spent = scene.release.uninstall()
    left = traces.left_anywhere(scene.cluster, scene.bare)
    if left:
        raise ClusterError(f"Nothing of sixgate must be left on any node, and there is: {'; '.join(left[:10])}")
    return f"no program, map, pin, file, route, device or size on 3 nodes after {spent:.1f} s; objects stay"


def keep(scene: Scene) -> str:
    scene.release.major = 4
    scene.release.install({"uninstall.keepDataPlane": True})
    scene.release.wait_object("nat46gateway", proofs.GATEWAY, 2)
    scene.release.uninstall()
    if not traces.left(scene.cluster.nodes["n1"], ()):
        raise ClusterError("The data plane must be kept, and there is nothing on n1.")
    seen = scene.pods["v6"].ask(plan.translated(plan.OUT4))
    if not seen.startswith("198.51.100."):
        raise ClusterError(f"Traffic must still flow after the uninstallation, and the server saw {seen or 'nobody'}.")
    return "NAT64 goes on with no process of sixgate in the cluster"


def leave_again(scene: Scene) -> str:
    scene.release.install({})
    return uninstall(scene)


def main_failures(report: Run) -> int:
    for failure in report.failures:
        sys.stderr.write(failure + "\n")
    return 0 if report.report.met else 1
