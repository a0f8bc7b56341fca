"""Fixtures of tests that change a network namespace: one of a random name per test, entered and removed afterwards."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sixgate.api.nodeconfig import NodeConfigSpec
from sixgate.node.agent import NodeAgent
from sixgate.node.bpf import missing_permission
from sixgate.node.options import NodeOptions
from tests.netns.standalone import Gateway
from tests.netns.streams import wait_for
from tools.build_bpf import find_tool, system_flags

SOURCE = Path(__file__).with_name("src") / "node_t.bpf.c"
VARIANTS = {
    "one": ("-DVERSION=1",),
    "two": ("-DVERSION=2",),
    "wide": ("-DVERSION=3", "-DWIDE"),
    "pair": ("-DVERSION=4", "-DPAIR"),
    "grown": ("-DVERSION=5", "-DGROWN"),
}
CLONE_NEWNET = 0x40000000


def libc(name: str, *arguments: Any) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


@dataclass(frozen=True)
class Namespace:
    """The network namespace that the test's thread is in. Commands that it starts are in it, too."""

    name: str

    def run(self, *words: str, check: bool = True) -> str:
        return subprocess.run(words, check=check, capture_output=True, text=True).stdout

    def ip(self, line: str) -> str:
        return self.run("ip", *line.split())

    def veth(self, name: str, peer: str, *addresses: str) -> None:
        """A pair of devices, both up; `name` with addresses."""
        self.ip(f"link add {name} type veth peer name {peer}")
        for address in addresses:
            self.ip(f"addr add {address} dev {name}" + (" nodad" if ":" in address else ""))
        self.ip(f"link set {name} up")
        self.ip(f"link set {peer} up")

    def wait_settled(self) -> None:
        """Until the kernel has nothing more to tell of the devices that are up: of itself it does, a moment later."""

        def settled() -> bool:
            links = json.loads(self.run("ip", "-j", "link", "show", "up", "type", "veth"))
            tentative = json.loads(self.run("ip", "-j", "addr", "show", "tentative"))
            return all(link["operstate"] == "UP" for link in links) and not any(tentative)

        wait_for(settled, f"the devices of {self.name} do not come up")

    def ifindex(self, device: str) -> int:
        return int(json.loads(self.run("ip", "-j", "link", "show", "dev", device))[0]["ifindex"])


@pytest.fixture
def netns() -> Iterator[Namespace]:
    """Enters a new namespace with loopback up; leaves and removes it."""
    if reason := missing_permission():
        pytest.skip(reason)
    name = f"sgt-{secrets.token_hex(4)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        inside = os.open(f"/run/netns/{name}", os.O_RDONLY)
        libc("setns", inside, CLONE_NEWNET)
        os.close(inside)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for scope in ("all", "default"):  # else addresses of devices change a second or two after they are up
            Path(f"/proc/sys/net/ipv6/conf/{scope}/accept_dad").write_text("0")
        yield Namespace(name)
    finally:
        libc("setns", home, CLONE_NEWNET)
        os.close(home)
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A bpffs of the test's own; everything that was mounted on it goes."""
    path = tmp_path / "bpf"
    path.mkdir()
    libc("mount", b"bpf", os.fsencode(path), b"bpf", ctypes.c_ulong(0), b"mode=0700")
    try:
        yield path
    finally:
        while os.path.ismount(path):
            libc("umount2", os.fsencode(path), 2)  # MNT_DETACH


@pytest.fixture(scope="session")
def variants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Object directories with one variant each of the test object `sg_t`, as `make bpf` writes them."""
    directories = {}
    for name, defines in VARIANTS.items():
        directory = directories[name] = tmp_path_factory.mktemp(f"objects-{name}")
        target = directory / "sg_t.bpf.o"
        command = [find_tool("clang"), "-O2", "-g", "-target", "bpf", "-mcpu=v3", *system_flags(), *defines]
        subprocess.run([*command, "-c", str(SOURCE), "-o", str(target)], check=True)
        digest = f"sha256:{hashlib.sha256(target.read_bytes()).hexdigest()}"
        (directory / "manifest.json").write_text(json.dumps({"objects": {"sg_t": digest}}))
    return directories


@dataclass
class Node:
    """Makes NodeConfigs for the test object, and agents that apply them to the namespace of the test."""

    ns: Namespace
    root: Path
    state_dir: Path
    objects: Path
    tcx: bool | None = None
    agents: list[NodeAgent] = field(default_factory=list)

    def agent(self, *, resync_s: float = NodeOptions().resync_s, **arguments: Any) -> NodeAgent:
        """A fresh agent, as after a restart: the one before it is dead."""
        self.kill()
        options = NodeOptions(
            bpffs=self.root, state_dir=self.state_dir, objects=self.objects, tcx=self.tcx, resync_s=resync_s
        )
        self.agents.append(NodeAgent(options, **arguments))
        return self.agents[-1]

    def kill(self) -> None:
        """What the kernel does for a process that dies: its lock goes."""
        for agent in self.agents:
            agent.close()

    def digest(self) -> str:
        return str(json.loads((self.objects / "manifest.json").read_text())["objects"]["sg_t"])

    def spec(
        self,
        *,
        features: int = 1,
        devices: Sequence[str] = ("e0",),
        xdp: Sequence[str] = (),
        entries: dict[int, Any] | None = None,
        inner: Sequence[int] = (7, 8),
        maps: Sequence[dict[str, Any]] = (),
        super_packets: str = "",
        **extra: Any,
    ) -> NodeConfigSpec:
        owners = ["NAT46Gateway/a"]
        attachments: list[dict[str, Any]] = [
            {"program": "t_tc", "hook": "tc-ingress", "devices": list(devices), "superPackets": super_packets}
        ]
        if xdp:
            attachments.append({"program": "t_xdp", "hook": "xdp", "devices": list(xdp), "required": False})
        rows = [{"key": key, "value": value} for key, value in ({1: 10, 2: 20} if entries is None else entries).items()]
        slot = [{"key": key, "value": value} for key, value in enumerate(inner)]
        document = {
            "formatVersion": 1,
            "objects": [
                {
                    "name": "sg_t",
                    "digest": self.digest(),
                    "owners": owners,
                    "constants": {"t_cfg": {"features": features, "peer": "sg-a"}},
                    "maps": list(maps),
                    "attachments": attachments,
                }
            ],
            "tables": [
                {"map": "sg_tab", "owners": owners, "entries": rows},
                {"map": "sg_out", "owners": owners, "swap": True, "outerKey": 0, "entries": slot},
            ],
            "links": [
                {"name": "sg-a", "kind": "veth", "peer": "sg-b", "mtu": 9000, "offloads": False, "owners": owners}
            ],
            "addresses": [{"device": "sg-a", "address": "fd99::1/64", "owners": owners}],
            "routes": [{"destination": "fd98::/64", "device": "sg-a", "owners": owners}],
            "sysctls": [{"key": "net/ipv4/conf/@attached/forwarding", "value": "1", "owners": owners}],
            **extra,
        }
        return NodeConfigSpec.model_validate(document).hashed()

    def pins(self, folder: str) -> list[str]:
        directory = self.root / folder
        return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


@pytest.fixture
def node(netns: Namespace, bpffs: Path, tmp_path: Path, variants: dict[str, Path]) -> Iterator[Node]:
    """A node with one uplink `e0`, whose bpffs and state directory belong to the test."""
    netns.veth("e0", "e1", "192.0.2.1/24", "2001:db8::1/64")
    made = Node(netns, bpffs / "sixgate", tmp_path / "state", variants["one"])
    yield made
    made.kill()


@pytest.fixture(params=[None, False], ids=["tcx", "clsact"])
def any_node(request: pytest.FixtureRequest, node: Node) -> Node:
    """The same, attached by tcx where the kernel has it, and by clsact filters."""
    node.tcx = request.param
    return node


@pytest.fixture
def gateway(netns: Namespace, bpffs: Path, tmp_path: Path) -> Iterator[Gateway]:
    """A standalone gateway that is not started yet, with device e0; killed at the end."""
    netns.veth("e0", "e1", "192.0.2.1/24", "2001:db8::1/64")
    made = Gateway(netns, bpffs, tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()
