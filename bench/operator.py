"""The operator against a real API server: latency, large clusters, outages.

    python -m bench.operator [--json FILE] [--only latency,kernel,objects,nodes,outage,bad] [--quick]

Nodes are Node objects without machines; the API server, etcd and the operator share this machine's cores.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bench import harness, operator_outage
from bench.harness import Goal, Report, Row, progress
from e2e.apiserver import ApiServer
from e2e.apiserver.cluster import ROOT, Cluster, Json, OperatorProcess, path_of
from e2e.apiserver.generate import generate
from e2e.apiserver.judge import judge
from e2e.apiserver.kernel_node import KernelNode
from e2e.apiserver.proxy import Pipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PARTS = ("latency", "kernel", "objects", "nodes", "outage", "bad")
PER_NODE = 10
OBJECTS = ROOT / "build" / "bpf"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    latency_objects: int = 1000
    patches: int = 200
    objects: int = 5000
    nodes: int = 5000
    outages_s: tuple[int, ...] = (15, 100)
    hole_s: int = 30
    bad_objects: int = 10_000


QUICK = Size(latency_objects=200, patches=40, objects=500, nodes=500, outages_s=(5,), hole_s=5, bad_objects=500)


def gateway(number: int, label: str, **stateless: Any) -> Json:
    """A NAT46Gateway that contradicts no other, on the nodes with `label`=yes."""
    return {
        "apiVersion": "sixgate.io/v1alpha1", "kind": "NAT46Gateway", "metadata": {"name": f"gw{number}"},
        "spec": {
            "nodeSelector": {"matchLabels": {label: "yes"}}, "prefix": f"2001:db8:{number:x}::/96",
            "stateless": {"ipv4CIDRs": [f"10.{number >> 8}.{number & 255}.0/24"], **stateless},
        },
    }  # fmt: skip


def in_parallel(work: Callable[[T], object], items: Iterable[T]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, items))


def make_nodes(cluster: Cluster, count: int, label_of: Callable[[int], dict[str, str]]) -> None:
    def make(number: int) -> None:
        meta = {"name": f"n{number}", "labels": label_of(number)}
        cluster.call("POST", path_of("Node"), {"apiVersion": "v1", "kind": "Node", "metadata": meta})

    in_parallel(make, range(count))


def create(cluster: Cluster, document: Json) -> None:
    cluster.call("POST", path_of(document["kind"]), document)


def report_all(cluster: Cluster) -> None:
    """Play every node's agent once."""
    in_parallel(lambda item: cluster.report_one(*item), cluster.list("NodeConfig").items())


def requests(cluster: Cluster, resource: str, subresource: str = "") -> int:
    """Writes to one resource since the API server started."""
    _, text = cluster.server.request("GET", "/metrics", raw=True)
    total = 0.0
    for labels, count in re.findall(r"^apiserver_request_total\{(.*)\} (\S+)$", text, re.MULTILINE):
        fields = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if fields["resource"] == resource and fields["subresource"] == subresource:
            total += float(count) if fields["verb"] in {"POST", "PUT", "PATCH", "APPLY", "DELETE"} else 0
    return int(total)


class Seen:
    """Watches NodeConfigs in a thread and notes when each generation of each was first seen, by time.monotonic."""

    def __init__(self, cluster: Cluster) -> None:
        self._condition = threading.Condition()
        self._at: dict[tuple[str, int], float] = {}
        self._generation: dict[str, int] = {}
        self._stack = ExitStack()
        self._events = self._stack.enter_context(cluster.server.watch(path_of("NodeConfig")))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        # http.client raises whatever it stumbles over when its socket is closed under it.
        with suppress(OSError, ValueError, AttributeError, http.client.HTTPException):
            for event in self._events:
                now, meta = time.monotonic(), event["object"]["metadata"]
                with self._condition:
                    self._at.setdefault((meta["name"], meta["generation"]), now)
                    self._generation[meta["name"]] = max(meta["generation"], self._generation.get(meta["name"], 0))
                    self._condition.notify_all()

    def generation(self, node: str) -> int:
        with self._condition:
            if not self._condition.wait_for(lambda: node in self._generation, 30):
                raise RuntimeError(f"The NodeConfig of {node} must be seen within 30 s.")
            return self._generation[node]

    def when(self, node: str, generation: int, timeout_s: float = 120) -> float:
        with self._condition:
            if not self._condition.wait_for(lambda: (node, generation) in self._at, timeout_s):
                raise RuntimeError(f"NodeConfig {node} must reach generation {generation} in {timeout_s:.0f} s.")
            return self._at[node, generation]

    def close(self) -> None:
        self._stack.close()
        self._thread.join(10)


@contextmanager
def fresh() -> Iterator[tuple[Cluster, Path]]:
    """An empty API server and a directory, both gone afterwards."""
    with ApiServer.start() as server, tempfile.TemporaryDirectory(prefix="sixgate-bench-") as directory:
        cluster = Cluster(server)
        cluster.install()
        yield cluster, Path(directory)


def rss_mib(process: OperatorProcess) -> float:
    assert process.process is not None
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


def percentile(samples: list[float], percent: float) -> float:
    return statistics.quantiles(samples, n=100, method="inclusive")[int(percent) - 1]


def measure_latency(report: Report, size: Size) -> None:
    progress(f"latency with {size.latency_objects} objects")
    groups = size.latency_objects // PER_NODE
    with fresh() as (cluster, directory):
        make_nodes(cluster, groups, lambda n: {f"g{n}": "yes"})
        documents = [gateway(n, f"g{n % groups}") for n in range(size.latency_objects)]
        in_parallel(lambda document: create(cluster, document), documents)
        with OperatorProcess(cluster.operator_account(), directory) as operator:
            operator.wait_settled(operator.wait_log("holds the lease", 60))
            report_all(cluster)
            cluster.wait("all statuses", lambda: settled_at(cluster, size.latency_objects), 120)
            seen = Seen(cluster)
            samples = []
            pauses = random.Random(1)
            for number in range(size.patches):
                samples.append(patch_once(cluster, seen, number % size.latency_objects, groups))
                time.sleep(pauses.uniform(0.05, 0.25))
            seen.close()
            assert operator.running
    name = f"patch of one of {size.latency_objects:,} objects to NodeConfig written and seen"
    report.rows.append(Row(f"{name}, p50", "ms", tuple(samples), goal=Goal("value", "<=", 100),
                           note="0.05 to 0.25 s apart"))  # fmt: skip
    report.rows.append(Row(f"{name}, p99", "ms", (percentile(samples, 99),), goal=Goal("value", "<=", 500)))


def measure_kernel(report: Report, size: Size) -> None:
    """One node of the cluster is a network namespace with a real agent; the others are Node objects."""
    progress(f"to the kernel with {size.latency_objects} objects")
    groups = size.latency_objects // PER_NODE
    digests = json.loads((OBJECTS / "manifest.json").read_text())["objects"]
    with fresh() as (cluster, directory):
        make_nodes(cluster, groups + 1, lambda n: {f"g{n}": "yes"})
        documents = [gateway(n, f"g{n % groups}") for n in range(size.latency_objects - 1)]
        mine = gateway(size.latency_objects, f"g{groups}")
        in_parallel(lambda document: create(cluster, document), [*documents, mine])
        with (
            KernelNode(cluster, f"n{groups}", OBJECTS) as node,
            OperatorProcess(cluster.operator_account(), directory, digests=digests) as operator,
        ):
            node.start()
            operator.wait_settled(operator.wait_log("holds the lease", 60))
            table, samples, pauses = node.wait_other_table(0), [], random.Random(2)
            for number in range(size.patches):
                time.sleep(pauses.uniform(0.3, 0.6))
                started = time.monotonic()
                change = {"mssClamp": number % 2 == 0}
                cluster.patch("NAT46Gateway", mine["metadata"]["name"], {"spec": {"stateless": change}})
                table = node.wait_other_table(table)
                samples.append(time.monotonic() - started)
    name = f"patch of one of {size.latency_objects:,} objects to the new rule in a node's kernel"
    report.rows.append(Row(f"{name}, p50", "s", tuple(samples), goal=Goal("value", "<=", 0.3)))
    report.rows.append(Row(f"{name}, p99", "s", (percentile(samples, 99),), goal=Goal("value", "<=", 1)))


def settled_at(cluster: Cluster, count: int) -> bool:
    ready = 0
    for item in cluster.list("NAT46Gateway").values():
        conditions = {c["type"]: c["status"] for c in item.get("status", {}).get("conditions", ())}
        ready += conditions.get("Ready") == "True"
    return ready == count


def patch_once(cluster: Cluster, seen: Seen, number: int, groups: int) -> float:
    """Milliseconds from sending a patch to seeing the NodeConfig that it causes; then the agent's report follows."""
    node = f"n{number % groups}"
    generation = seen.generation(node)
    found = cluster.get("NAT46Gateway", f"gw{number}")
    assert found is not None
    clamp = not found["spec"]["stateless"].get("mssClamp", False)
    started = time.monotonic()
    cluster.patch("NAT46Gateway", f"gw{number}", {"spec": {"stateless": {"mssClamp": clamp}}})
    took = seen.when(node, generation + 1) - started
    cluster.report_one(node)
    return took * 1000


def measure_objects(report: Report, size: Size) -> None:
    progress(f"{size.objects} objects: first sight and restart")
    groups = size.objects // PER_NODE
    with fresh() as (cluster, directory):
        make_nodes(cluster, groups, lambda n: {f"g{n}": "yes"})
        documents = [gateway(n, f"g{n % groups}") for n in range(size.objects)]
        in_parallel(lambda document: create(cluster, document), documents)
        with OperatorProcess(cluster.operator_account(), directory, name="first") as operator:
            started = time.monotonic()
            cluster.wait("every object's first status", lambda: first_seen(cluster) == size.objects, 300)
            first = time.monotonic() - started
            operator.wait_log(r"\b0 left\.|Nothing to write", 60)
            writes = requests(cluster, "nat46gateways", "status")
            report_all(cluster)
            cluster.wait("all ready", lambda: settled_at(cluster, size.objects), 300)
            time.sleep(2)
            operator.terminate()
        before = requests(cluster, "nat46gateways", "status") + requests(cluster, "nodeconfigs")
        started = time.monotonic()
        with OperatorProcess(cluster.operator_account(), directory, name="second") as operator:
            operator.wait_log("Nothing to write", 120)
            restart = time.monotonic() - started
            time.sleep(10)  # kopf's own list arrives meanwhile
            written = requests(cluster, "nat46gateways", "status") + requests(cluster, "nodeconfigs") - before
            memory = rss_mib(operator)
            if "not delivered" in operator.log():
                report.remarks.append("The audit had to fetch what a watch had not delivered.")
    objects = f"{size.objects:,} objects"
    report.rows += [
        Row(f"{objects}, first sight: all have a status", "s", (first,)),
        Row(f"{objects}, first sight: status writes per object", "writes", (writes / size.objects,),
            goal=Goal("value", "<=", 1)),
        Row(f"{objects}, restart: process start to converged", "s", (restart,), goal=Goal("value", "<=", 6)),
        Row(f"{objects}, restart: writes", "writes", (float(written),), goal=Goal("value", "<=", 0)),
        Row(f"{objects}: memory of the operator", "MiB", (memory,)),
    ]  # fmt: skip


def first_seen(cluster: Cluster) -> int:
    return sum("status" in item for item in cluster.list("NAT46Gateway").values())


def measure_nodes(report: Report, size: Size) -> None:
    progress(f"{size.nodes} nodes: a change of one, a change of all")
    with fresh() as (cluster, directory):
        make_nodes(cluster, size.nodes, lambda n: {"all": "yes"} | ({"one": "yes"} if n == 7 else {}))
        create(cluster, gateway(1, "all"))
        create(cluster, gateway(2, "one"))
        with OperatorProcess(cluster.operator_account(), directory) as operator:
            cluster.wait("all NodeConfigs", lambda: len(cluster.list("NodeConfig")) == size.nodes, 300)
            report_all(cluster)
            cluster.wait("both ready", lambda: settled_at(cluster, 2), 120)
            time.sleep(2)
            seen = Seen(cluster)
            generation = seen.generation("n7")
            before = requests(cluster, "nodeconfigs")
            started = time.monotonic()
            cluster.patch("NAT46Gateway", "gw2", {"spec": {"stateless": {"mssClamp": True}}})
            one = seen.when("n7", generation + 1) - started
            time.sleep(3)
            writes_one = requests(cluster, "nodeconfigs") - before
            before, mark, started = requests(cluster, "nodeconfigs"), len(operator.log()), time.monotonic()
            cluster.patch("NAT46Gateway", "gw1", {"spec": {"stateless": {"mssClamp": True}}})
            wanted = before + size.nodes
            cluster.wait("all written", lambda: requests(cluster, "nodeconfigs") >= wanted, 300)
            took = time.monotonic() - started
            time.sleep(3)
            writes_all = requests(cluster, "nodeconfigs") - before
            said = operator.wait_log(r"Writing \d+ NodeConfigs.*per second", since=mark, timeout_s=5)
            memory = rss_mib(operator)
            seen.close()
            assert said
    nodes = f"{size.nodes:,} nodes"
    report.rows += [
        Row(f"{nodes}, change of one: NodeConfigs written", "writes", (float(writes_one),),
            goal=Goal("value", "==", 1)),
        Row(f"{nodes}, change of one: patch to NodeConfig seen", "ms", (one * 1000,)),
        Row(f"{nodes}, change of all: NodeConfigs written", "writes", (float(writes_all),),
            goal=Goal("value", "==", size.nodes)),
        Row(f"{nodes}, change of all: rate", "writes/s", (size.nodes / took,), goal=Goal("value", "<=", 250),
            note="limit 200 in the long run, and the operator says so"),
        Row(f"{nodes}: memory of the operator", "MiB", (memory,)),
    ]  # fmt: skip


def measure_outage(report: Report, size: Size) -> None:
    """One node is a network namespace with a real agent, through which numbered packets pass all the time."""
    digests = json.loads((OBJECTS / "manifest.json").read_text())["objects"]
    with fresh() as (cluster, directory):
        make_nodes(cluster, 1, lambda n: {"all": "yes"})
        create(cluster, gateway(1, "all"))
        with (
            Pipe(cluster.server.port) as pipe,
            KernelNode(cluster, "n0", OBJECTS) as node,
            OperatorProcess(cluster.operator_account(server=pipe.url), directory, digests=digests) as operator,
        ):
            operator_outage.prepare(node)
            node.start()
            node.wait_other_table(0)
            cluster.wait("the object at work", lambda: settled_at(cluster, 1), 60)
            site = operator_outage.Site(cluster, operator, node, pipe)
            operator_outage.measure(report, site, size.outages_s, size.hole_s)


def measure_bad(report: Report, size: Size) -> None:
    progress(f"{size.bad_objects} generated objects")
    with fresh() as (cluster, _):
        verdicts = [judge(cluster, document) for document in generate(size.bad_objects, seed=3)]
    crashes = [verdict.crash for verdict in verdicts if verdict.crash]
    refused = sum(bool(verdict.refused) for verdict in verdicts)
    told = sum(bool(verdict.problems) for verdict in verdicts)
    name = f"{size.bad_objects:,} generated objects"
    report.rows += [
        Row(f"{name}: refused at apply", "objects", (float(refused),)),
        Row(f"{name}: taken, with a condition", "objects", (float(told),)),
        Row(f"{name}: exceptions", "exceptions", (float(len(crashes)),), goal=Goal("value", "<=", 0)),
    ]
    report.remarks += crashes[:5]


def run(size: Size = Size(), only: tuple[str, ...] = PARTS) -> Report:
    """All rows of this benchmark."""
    report = Report("Operator")
    measures = {
        "latency": measure_latency,
        "kernel": measure_kernel,
        "objects": measure_objects,
        "nodes": measure_nodes,
        "outage": measure_outage,
        "bad": measure_bad,
    }
    harness.run_parts({name: partial(measure, report, size) for name, measure in measures.items()}, only)
    return report


def main() -> int:
    parser = harness.command("Measure the operator against a real API server.", parts=PARTS)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, to see that it works")
    return harness.main(parser, lambda args: run(QUICK if args.quick else Size(), args.only))


if __name__ == "__main__":
    sys.exit(main())
