"""The balancer's control plane: cold programming, one change among many.

    python -m bench.lb_control

Map time is what the kernel's maps take (building and swapping tables, entries, backends), without making Maglev tables.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bench import apart, harness
from bench.harness import Goal, Report, Row, progress
from e2e.lab.run import LabError
from sixgate.api.nodeconfig import NodeConfigSpec
from sixgate.node.agent import NodeAgent
from sixgate.node.bpf import load_manifest
from sixgate.node.lb.engine import Engine
from sixgate.node.lb.env import Env
from sixgate.node.lb.store import Store
from sixgate.node.options import NodeOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sixgate.api.nodeconfig_lb import Balancer

ROOT = Path(__file__).resolve().parent.parent
OBJECTS = ROOT / "build" / "bpf"
COLD = ((5000, 1021), (500, 16381))
MANY = 1000
CHANGES = 9


def document(count: int, size: int, *, odd: int = -1) -> dict[str, Any]:
    """A NodeConfig with so many balancers of three backends each; `odd` has another third backend."""
    digests = load_manifest(OBJECTS).digests
    config = {"features": 16, "l2_len": 14}
    tc = {"program": "sg_uplink_tc", "hook": "tc-ingress", "devices": ["e0"]}
    return {
        "formatVersion": 1,
        "revision": f"{count}-{size}-{odd}",
        "objects": [
            {"name": "sg_tc", "digest": digests["sg_tc"], "constants": {"sg_cfg": config}, "attachments": [tc]}
        ],
        "balancers": [balancer(number, size, odd=number == odd) for number in range(count)],
    }


def balancer(number: int, size: int, *, odd: bool) -> dict[str, Any]:
    name = f"LoadBalancer/b{number}"
    backends = [f"10.{number >> 8}.{number & 255}.{host}" for host in (1, 2, 4 if odd else 3)]
    return {
        "owners": [name],
        "name": name,
        "vips": [{"address": f"172.{16 + (number >> 8)}.{number & 255}.1"}],
        "ports": [{"protocol": "TCP", "first": 80, "last": 80, "target": 80}],
        "backends": [{"address": text} for text in backends],
        "tableSize": size,
        "seed": number,
    }


@dataclass(slots=True)
class Stopwatch:
    """Seconds inside calls of some methods, and when the last of them ended."""

    seconds: float = 0.0
    ended: float = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*words: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*words, **named)
            finally:
                self.ended = time.perf_counter()
                self.seconds += self.ended - started

        return timed


@contextmanager
def watched(*methods: str) -> Iterator[Stopwatch]:
    """Times methods of Store, which does all the writing."""
    watch, originals = Stopwatch(), {name: getattr(Store, name) for name in methods}
    for name, original in originals.items():
        setattr(Store, name, watch.around(original))
    try:
        yield watch
    finally:
        for name, original in originals.items():
            setattr(Store, name, original)


@contextmanager
def node() -> Iterator[NodeOptions]:
    """A bpffs and a state directory that go again. The caller is in a network and a mount namespace of its own."""
    with TemporaryDirectory(prefix="sixgate-bench-") as directory:
        root = Path(directory) / "bpf"
        root.mkdir()
        subprocess.run(["mount", "-t", "bpf", "bpf", str(root)], check=True)
        try:
            yield NodeOptions(bpffs=root / "sixgate", state_dir=Path(directory) / "state", objects=OBJECTS)
        finally:
            subprocess.run(["umount", "-l", str(root)], check=True)


def cold(count: int, size: int) -> dict[str, float]:
    """Seconds of map time and of everything, for tables that nobody has made yet."""
    with node() as options:
        spec = NodeConfigSpec.model_validate(document(0, size))
        with NodeAgent(options) as agent:
            _must(agent, spec)
            items: tuple[Balancer, ...] = NodeConfigSpec.model_validate(document(count, size)).balancers
            engine = Engine(options.bpffs, OBJECTS, time.monotonic_ns)
            engine.want(items, Env(source4="192.0.2.1"))
            with watched("write", "swap", "delete") as watch:
                started = time.perf_counter()
                engine.sync()
                whole = time.perf_counter() - started
            if engine.problems or len(engine.tables()) != count:
                raise LabError(f"Only {len(engine.tables())} of {count} balancers were programmed.")
            engine.close()
    return {"map": watch.seconds, "whole": whole}


def change() -> list[float]:
    """Milliseconds from a NodeConfig, not yet read, to packets that meet the new table; the whole agent does it."""
    found = []
    with node() as options, NodeAgent(options) as agent:
        _must(agent, NodeConfigSpec.model_validate(document(MANY, 1021)))
        for number in range(CHANGES):
            wanted = json.dumps(document(MANY, 1021, odd=number * 7))
            raw = json.loads(wanted)
            with watched("swap") as watch:
                started = time.perf_counter()
                status = agent.apply_document(raw)
            if not status.ready or not watch.ended:
                raise LabError(f"A change was not applied: {status.message}")
            found.append(1000 * (watch.ended - started))
    return found


def _must(agent: NodeAgent, spec: NodeConfigSpec) -> None:
    status = agent.apply(spec)
    if not status.ready:
        raise LabError(f"The node of the benchmark is not ready: {status.message}")


def here() -> dict[str, Any]:
    """Everything that needs namespaces of this process: called by `unshare`."""
    for line in (
        "link add e0 type veth peer name e1",
        "link set e0 up",
        "link set e1 up",
        "addr add 192.0.2.1/24 dev e0",
    ):
        subprocess.run(["ip", *line.split()], check=True)
    made: dict[str, Any] = {f"cold {count}": cold(count, size) for count, size in COLD}
    made["change"] = change()
    return made


def measure(report: Report) -> None:
    """Adds the rows of the control plane."""
    progress("control plane: cold tables, one change")
    made = apart.ask("bench.lb_control", mount=True)
    for count, size in COLD:
        found = made[f"cold {count}"]
        name = f"{count:,} VIPs of {size:,} slots, cold"
        report.rows.append(Row(f"{name}: map time", "s", (found["map"],), goal=Goal("value", "<=", 2.0)))
        report.rows.append(Row(f"{name}: all of it, with Maglev", "s", (found["whole"],)))
    changed = tuple(made["change"])
    name = f"one backend change among {MANY:,} VIPs"
    report.rows.append(Row(name, "ms", changed, goal=Goal("value", "<=", 100)))


def main() -> int:
    title = "Control plane of the balancer"
    return apart.main(harness.command(f"{title}."), lambda _: harness.report_of(title, measure), lambda _: here())


if __name__ == "__main__":
    sys.exit(main())
