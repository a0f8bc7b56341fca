"""What observability costs, and how fast its commands answer.

    python -m bench.observe [--json FILE] [--only cost,node,status]

cost: packets per second of the XDP translator (as bench.nat64_ns measures it, net of the wrapper) with `observe` off
and on, against the same sources compiled without its hook, in turns. node: `sixgate trace`, the whole command from fork
to exit, and a scrape of a gateway with 1,008 virtual addresses and 5,040 backends. status: `kubectl sixgate status`
of 1,000 nodes in a real API server.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bench import apart, harness, nat64_ns
from bench.harness import Goal, Report, Row, progress
from bench.nat64_ns import ROOT
from bench.nat_labs import gateway
from bench.operator import create, fresh, in_parallel, report_all
from e2e.lab import natlab
from e2e.lab.natlab import CLIENT6, SERVER4, embed
from e2e.lab.run import LabRun
from e2e.lab.sixgate import SIXGATE, Sixgate
from e2e.lab.topology import GATEWAY
from tests.bpf.harness import OBJECTS, XDP_TX

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS = ("cost", "node", "status")
PORT = 9464
NODES = 1000
COPIES = 3
BALANCERS, VIPS, BACKENDS = 63, 16, 80
# In the place of lib/observe.h: nobody ever looks.
WITHOUT = """
#ifndef SG_OBSERVE_H
#define SG_OBSERVE_H
SG_INLINE bool sg_observed(void) { return false; }
SG_INLINE int sg_obs_begin(sg_ctx *ctx __attribute__((unused))) { return 0; }
SG_INLINE int sg_obs_end(sg_ctx *ctx __attribute__((unused)), int act __attribute__((unused)),
    __u32 at __attribute__((unused))) { return 0; }
#endif
"""


def build_without() -> Path:
    """Objects of the same sources without the hook; where they are."""
    source, out = ROOT / "build" / "bench" / "without_observe", ROOT / "build" / "bench" / "without_observe_objects"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "bpf_src", source)
    (source / "lib" / "observe.h").write_text(WITHOUT)
    command = [sys.executable, "tools/build_bpf.py", "--source", str(source), "--out", str(out), "sg_xdp"]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return out


def measure_here(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Nanoseconds by way: without, again (the same program loaded once more), off, on. In an empty network namespace.

    Each is loaded COPIES times and measured with one of them after the other, in turns: where the kernel puts a program
    moves its speed by more than what is looked for.
    """
    ways, wrapper = nat64_ns.prepare()
    without = build_without()
    found: dict[str, dict[str, list[float]]] = {}
    benches: dict[str, list[dict[str, nat64_ns.Bench]]] = {}
    for _ in range(COPIES):
        for name, objects in (("without", without), ("again", without), ("off", OBJECTS), ("on", OBJECTS)):
            loaded = nat64_ns.load_gateway(objects)
            if name == "on":
                wish = {"sample": 1000, "budget": 100, "until_ns": (1 << 63) - 1, "reasons": [(1 << 64) - 1] * 4}
                loaded.fill("sg_obs_conf", [(0, wish)])
            benches.setdefault(name, []).append({way.name: nat64_ns.Bench(way, wrapper, loaded) for way in ways})
    for way in ways:
        own = benches["without"][0][way.name]
        found[way.name] = {name: [] for name in benches}
        for number in range(rounds):
            measures: dict[str, Callable[[], float]] = {
                "direct": own.direct,
                "nothing": partial(own.nanoseconds, own.moving.program("sg_nothing"), own.moving, way.near),
                **{
                    name: partial(copies[number % COPIES][way.name].translate, way.far, XDP_TX)
                    for name, copies in benches.items()
                },
            }
            names = list(measures)[number % len(measures) :] + list(measures)[: number % len(measures)]
            raw = {name: measures[name]() for name in (names if number % 2 else names[::-1])}
            for name in benches:
                found[way.name][name].append(raw[name] - raw["nothing"] + raw["direct"])
    return found


def measure_cost(report: Report, rounds: int = 61) -> None:
    progress(f"observe, packets per second: {rounds} rounds of {nat64_ns.REPEAT:,} packets")
    for way, samples in apart.ask_rounds("bench.observe", rounds).items():
        per_s = {name: tuple(1e3 / ns for ns in values) for name, values in samples.items()}
        for name, goal, what in (
            ("again", None, "control: the build without it against itself"),
            ("off", Goal("ratio", ">=", 0.99), "observe off, against a build without it"),
            ("on", Goal("ratio", ">=", 0.95), "observe on, one packet of 1,000, against a build without it"),
        ):
            metric = f"XDP {way}, 64-byte UDP, {what}"
            report.rows.append(Row(metric, "Mpps", per_s[name], per_s["without"], goal))
    report.remarks.append(
        "Mpps of the translator alone, net of what restores the packet. The control says how far two equal programs "
        "are apart here: a ratio nearer to 1 than that says nothing."
    )


def balancer(number: int) -> dict[str, Any]:
    """One LoadBalancer of the many."""
    return {
        "apiVersion": "sixgate.io/v1alpha1",
        "kind": "LoadBalancer",
        "metadata": {"name": f"lb{number}"},
        "spec": {
            "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "gw-1"}},
            "vips": [f"2001:db8:f:{number:x}::{vip + 1:x}" for vip in range(VIPS)],
            "ports": [{"name": "web", "port": 80}],
            "backends": [{"address": f"2001:db8:b:{number:x}::{backend + 1:x}"} for backend in range(BACKENDS)],
        },
    }


def measure_node(report: Report, rounds: int = 9) -> None:
    progress("a gateway with sessions: trace; with 1,008 virtual addresses: scrape")
    stateful = {"prefix": str(natlab.PREFIX), "stateful": {"pools": [{"cidr": "198.51.100.0/30"}]}}
    stateless = gateway({"prefix": "2001:db8:64::/96", "stateless": {"ipv4CIDRs": ["192.0.2.0/24"]}}, "plain")
    asked = {
        "stateless NAT64": ("[2001:db8:64::c000:207]:4000", f"[2001:db8:64::cb00:7114]:{PORT}"),
        "stateful NAT64": (f"[{CLIENT6.ip}]:4000", f"[{embed(SERVER4.ip)}]:{PORT}"),
    }
    for what, objects in (("stateless NAT64", [stateless]), ("stateful NAT64", [gateway(stateful)])):
        with LabRun() as lab:
            running = start(lab, objects)
            source, target = asked[what]
            words = [str(SIXGATE), "trace", "--from", source, "--to", target, "--device", lab.device("client6")]
            words += ["--bpffs", str(running.bpffs), "--state-dir", str(running.state_dir)]

            def fork_to_exit(words: list[str] = words, lab: LabRun = lab) -> float:
                # Forked where the gateway is: what brings a process there is none of the command.
                return lab.call(GATEWAY, lambda: timed(lambda: subprocess.run(words, check=False, capture_output=True)))

            samples = tuple(fork_to_exit() for _ in range(rounds))
            name = f"sixgate trace, {what}, from fork to exit"
            report.rows.append(Row(name, "ms", samples, goal=Goal("value", "<=", 200)))
            running.kill()
            alone = tuple(fork_to_exit() for _ in range(3))
            report.rows.append(Row(f"{name}, with no process to ask", "ms", alone))
    helped = tuple(
        timed(lambda: subprocess.run([str(SIXGATE), "--help"], check=True, capture_output=True)) for _ in range(rounds)
    )
    report.rows.append(Row("sixgate --help, from fork to exit", "ms", helped, goal=Goal("value", "<=", 150)))
    with LabRun() as lab:
        start(lab, [balancer(number) for number in range(BALANCERS)])
        url = f"http://127.0.0.1:{PORT}/metrics"

        def scrape() -> int:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return len(answer.read())

        size = lab.call(GATEWAY, scrape)
        samples = lab.call(GATEWAY, lambda: tuple(timed(scrape) for _ in range(rounds)))
        vips, backends = BALANCERS * VIPS, BALANCERS * BACKENDS
        name = f"scrape of {vips:,} virtual addresses and {backends:,} backends, {size >> 10:,} KiB"
        report.rows.append(Row(name, "ms", samples, goal=Goal("value", "<=", 50)))


def start(lab: LabRun, objects: list[dict[str, Any]]) -> Sixgate:
    """sixgate ready on `objects` in the lab's gateway."""
    natlab.build(lab)
    manifests = lab.workdir / "manifests"
    manifests.mkdir()
    (manifests / "all.yaml").write_text("---\n".join(yaml.safe_dump(item) for item in objects))
    lab.ip(GATEWAY, "link set lo up")
    running = Sixgate(lab, manifests, more=("--metrics", f"127.0.0.1:{PORT}"))
    running.start()
    running.wait_ready()
    return running


def timed(work: Any) -> float:
    """Milliseconds that it takes."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def measure_status(report: Report, rounds: int = 5, nodes: int = NODES) -> None:
    progress(f"status of {nodes:,} nodes")
    with fresh() as (cluster, _):
        meta = [{"name": f"n{number}"} for number in range(nodes)]
        document = {"apiVersion": "sixgate.io/v1alpha1", "kind": "NodeConfig", "spec": {"formatVersion": 1}}
        in_parallel(lambda item: create(cluster, {**document, "metadata": item}), meta)
        report_all(cluster)
        words = [str(SIXGATE), "cluster", "status", "--kubeconfig", str(cluster.server.admin().path)]
        samples = tuple(timed(lambda: subprocess.run(words, check=False, capture_output=True)) for _ in range(rounds))
    seconds = tuple(sample / 1e3 for sample in samples)
    report.rows.append(
        Row(f"kubectl sixgate status of {nodes:,} nodes, the whole command", "s", seconds, goal=Goal("value", "<=", 2))
    )


def run(only: tuple[str, ...] = PARTS) -> Report:
    """All rows of this benchmark."""
    report = Report("Observability")
    measures = {"cost": measure_cost, "node": measure_node, "status": measure_status}
    harness.run_parts({name: partial(measure, report) for name, measure in measures.items()}, only)
    return report


def main() -> int:
    parser = harness.command("Measure what observability costs and how fast it answers.", parts=PARTS)
    parser.add_argument("--rounds", type=int, default=61, help=argparse.SUPPRESS)
    return apart.main(parser, lambda args: run(args.only), lambda args: measure_here(args.rounds))


if __name__ == "__main__":
    sys.exit(main())
