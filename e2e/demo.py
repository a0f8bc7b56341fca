"""`make demo`: an IPv6-only and an IPv4-only network, sixgate between them, and real programs talking across.

    python -m e2e.demo [--manifests DIR] [--node NAME] [--megabytes N]

Lays out the gateway lab (e2e/lab/topology.py), runs `sixgate standalone` in the gateway, sends traffic both ways,
prints what came of it and the gateway's own counters, and removes everything it made, however it ends.
The exit code is 0 when all of it worked, 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from e2e import demo_balancer
from e2e.lab import topology, traffic
from e2e.lab.byname import NAME, curl_by_name, named_host
from e2e.lab.run import LabError, LabRun
from e2e.lab.sixgate import NODE, ROOT, Sixgate
from e2e.lab.topology import CLIENT4, CLIENT6, SERVER4, SERVER6, Host

if TYPE_CHECKING:
    from collections.abc import Callable

IPERF_SECONDS = 3.0
WAYS = ((CLIENT6, SERVER4, "6 to 4"), (CLIENT4, SERVER6, "4 to 6"))


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was done: what, the command as typed at the client, what came of it, whether it was right."""

    what: str
    command: str
    outcome: str
    right: bool


@dataclass(frozen=True, slots=True)
class Stage:
    """What the steps work with."""

    lab: LabRun
    gateway: Sixgate
    payload: Path


def fetch_page(stage: Stage, client: Host, server: Host) -> tuple[str, str, bool]:
    """A page of the server by its address in the client's family."""
    url = f"http://{traffic.url_host(server.seen_from(client.family))}:{traffic.HTTP_PORT}/hello.txt"
    target = stage.lab.workdir / "page"
    got = traffic.curl(stage.lab, client.role, url, target)
    text = target.read_text(errors="replace").strip()
    return f"curl {url}", f'HTTP {got.status}, "{text}"', got.status == 200 and text == greeting(server)


def fetch_by_name(stage: Stage) -> tuple[str, str, bool]:
    """A page of the IPv4-only server by its name, which has an A record only: DNS64 gives the client an address."""
    address, text = curl_by_name(stage.lab, CLIENT6, CLIENT6.gateway, "hello.txt")
    right = text == greeting(SERVER4) and address == SERVER4.seen_from(6)
    return f"curl -6 http://{NAME}/hello.txt", f'{address}, "{text}"', right


def send_pings(stage: Stage, client: Host, server: Host) -> tuple[str, str, bool]:
    address = server.seen_from(client.family)
    got = traffic.ping(stage.lab, client.role, address)
    delay = "" if got.average_ms is None else f", {got.average_ms:.2f} ms"
    return f"ping {address}", f"{got.received} of {got.sent} answered{delay}", got.received == got.sent


def trace(stage: Stage, client: Host, server: Host) -> tuple[str, str, bool]:
    address = server.seen_from(client.family)
    hops = traffic.traceroute(stage.lab, client.role, address)
    right = hops == (client.gateway, address)
    return f"traceroute {address}", " > ".join(hops) or "no answer", right


def download(stage: Stage, client: Host, server: Host) -> tuple[str, str, bool]:
    url = f"http://{traffic.url_host(server.seen_from(client.family))}:{traffic.HTTP_PORT}/{stage.payload.name}"
    target = stage.lab.workdir / "download"
    got = traffic.curl(stage.lab, client.role, url, target)
    wanted = traffic.file_sha256(stage.payload)
    target.unlink()
    same = got.sha256 == wanted
    rate = got.size_bytes * 8 / max(got.seconds, 1e-9) / 1e9
    verdict = "SHA-256 equal" if same else f"SHA-256 {got.sha256[:12]} instead of {wanted[:12]}"
    return f"curl -o FILE {url}", f"{got.size_bytes / 1e6:.0f} MB, {rate:.1f} Gbit/s, {verdict}", same


def measure_tcp(stage: Stage, client: Host, server: Host) -> tuple[str, str, bool]:
    address = server.seen_from(client.family)
    got = traffic.iperf(stage.lab, client.role, address, seconds=IPERF_SECONDS)
    return f"iperf3 -c {address}", f"{got.bits_per_second / 1e9:.1f} Gbit/s", got.bits_per_second > 0


ACTIONS: tuple[tuple[str, Callable[[Stage, Host, Host], tuple[str, str, bool]]], ...] = (
    ("web page", fetch_page),
    ("ping", send_pings),
    ("traceroute", trace),
    ("download", download),
    ("TCP throughput", measure_tcp),
)


def greeting(server: Host) -> str:
    return f"hello from {server.role}"


def perform(stage: Stage, console: Console) -> list[Step]:
    """All actions both ways; one that fails is a step that went wrong, and the next is tried."""
    wanted = [
        (f"{what}, {way}", partial(action, stage, client, server))
        for what, action in ACTIONS
        for client, server, way in WAYS
    ]
    if stage.gateway.status().get("resolvers"):
        wanted.insert(len(WAYS), ("web page by name", partial(fetch_by_name, stage)))
    steps = []
    for what, action in wanted:
        try:
            command, outcome, right = action()
        except LabError as error:
            command, outcome, right = "", str(error), False
        steps.append(Step(what, command, outcome, right))
        console.print(f"  {what}: {'done' if right else 'FAILED'}")
    return steps


def balance(console: Console) -> Step:
    """A balancer in a lab of its own."""
    what = "one of three backends goes"
    try:
        command, outcome, right = demo_balancer.change_backends()
    except LabError as error:
        command, outcome, right = "", str(error), False
    console.print(f"  {what}: {'done' if right else 'FAILED'}")
    return Step(what, command, outcome, right)


def step_table(steps: list[Step]) -> Table:
    table = Table(title="What was done, and what came of it", title_justify="left", box=None, pad_edge=False)
    for heading in ("", "what", "at the client", "outcome"):
        table.add_column(heading, overflow="fold")
    for step in steps:
        table.add_row("ok" if step.right else "FAIL", step.what, step.command, step.outcome)
    return table


def counter_table(status: dict[str, Any]) -> Table:
    """The gateway's own figures, as `sixgate status` names them; those that are zero are left out."""
    table = Table(title="What the gateway counted (sixgate status)", title_justify="left", box=None, pad_edge=False)
    table.add_column("counter")
    table.add_column("packets", justify="right")
    table.add_column("bytes", justify="right")
    for name, packets, size in counters(status):
        table.add_row(name, f"{packets:,}", f"{size:,}")
    return table


def counters(status: dict[str, Any]) -> list[tuple[str, int, int]]:
    """(name, packets, bytes) of what was translated per object and of every reason that occurred."""
    found = [
        (f"{owner} {way}", count["packets"], count["bytes"])
        for owner, both in status.get("traffic", {}).items()
        for way, count in both.items()
    ]
    found += [(reason, count["packets"], count["bytes"]) for reason, count in status.get("counters", {}).items()]
    return [row for row in found if row[1]]


def prepare(lab: LabRun, manifests: Path, node: str, megabytes: int) -> Stage:
    """Lab, files to serve, and the gateway, ready."""
    topology.build(lab)
    payload = lab.workdir / "www" / "random.bin"
    payload.parent.mkdir()
    with payload.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1_000_000))
    gateway = Sixgate(lab, manifests, node=node)
    gateway.start()
    gateway.wait_ready()
    return Stage(lab, gateway, payload)


def serve(stack: ExitStack, stage: Stage, server: Host) -> None:
    """HTTP (a greeting and the payload) and iperf3 on one host."""
    root = stage.lab.workdir / f"www-{server.role}"
    root.mkdir()
    (root / "hello.txt").write_text(greeting(server) + "\n")
    (root / stage.payload.name).hardlink_to(stage.payload)
    stack.enter_context(traffic.http_server(stage.lab, server, root, sys.executable))
    stack.enter_context(traffic.iperf_server(stage.lab, server.role))


def run(manifests: Path, node: str, megabytes: int, console: Console) -> bool:
    """The whole demonstration; True when every step went right."""
    begin = time.monotonic()
    with LabRun() as lab:
        console.print(
            "Lab: client6 and server6 have IPv6 only, client4 and server4 IPv4 only, the gateway is between them.\n"
            f"Gateway: sixgate standalone --manifests {os.path.relpath(manifests)} --node {node}"
        )
        stage = prepare(lab, manifests, node, megabytes)
        with ExitStack() as stack:
            for server in (SERVER4, SERVER6):
                serve(stack, stage, server)
            stack.enter_context(named_host(lab, SERVER4, lab.workdir / f"www-{SERVER4.role}"))
            steps = perform(stage, console)
        status = stage.gateway.status()
        stage.gateway.stop()
        steps.append(balance(console))
        console.print()
        console.print(step_table(steps))
        console.print()
        console.print(counter_table(status))
    right = sum(step.right for step in steps)
    console.print(
        f"\n{right} of {len(steps)} steps went right, in {time.monotonic() - begin:.0f} s; "
        "all namespaces, devices, processes and files of the demo are removed."
    )
    return right == len(steps)


def main() -> int:
    parser = argparse.ArgumentParser(description="Show sixgate at work in network namespaces.")
    parser.add_argument(
        "--manifests", type=Path, default=ROOT / "examples" / "nat46gateway-dns64", help="objects to apply"
    )
    parser.add_argument("--node", default=NODE, help="name under which the gateway runs")
    parser.add_argument("--megabytes", type=int, default=100, help="size of the download")
    args = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 132, highlight=False, markup=False)
    if os.geteuid():
        console.print("The demo makes network namespaces and loads BPF programs: run it as root.")
        return 1
    try:
        return 0 if run(args.manifests, args.node, args.megabytes, console) else 1
    except LabError as error:
        console.print(f"The demo could not be run: {error}")
        return 1
    except KeyboardInterrupt:
        console.print("\nInterrupted; everything the demo made is removed.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
