"""`sixgate trace` of a pod with egress: at its node and at the gateway, new flows and known ones."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab.egress import SERVER, SERVER4, SERVER6, SOURCE4, SOURCE6, EgressLab, egress_gateway
from e2e.lab.run import LabRun
from sixgate.node.bpf import missing_permission
from tests.netns.untouched import contents

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 9100
ENDS = pytest.mark.parametrize(("server", "source"), [(SERVER4, SOURCE4), (SERVER6, SOURCE6)], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def lab() -> Iterator[EgressLab]:
    """A node with a selected pod and one that is not, and a gateway with a pod of its own."""
    if reason := missing_permission():
        pytest.skip(reason)
    with LabRun() as run:
        made = EgressLab(run)
        made.objects = {"payments": egress_gateway(nat={"maxSessions": 65536, "lifetimes": {"udp": 86400}})}
        made.add_node("n1")
        made.add_node("g1", gateway=True)
        made.add_pod("pay", "n1")
        made.add_pod("plain", "n1", "other")
        made.add_pod("ongw", "g1")
        made.start()
        for node in ("n1", "g1"):
            made.wait_pods(node, 1)
        made.wait_settled()
        yield made


def end(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def address_of(lab: EgressLab, pod: str, like: str) -> str:
    return lab.pods[pod].ipv6 if ":" in like else lab.pods[pod].ipv4


def trace(lab: EgressLab, node: str, pod: str, server: str, *words: str) -> dict[str, Any]:
    """Of a datagram of a pod, from PORT to PORT. No map of the node is another one afterwards."""
    bpffs = Path(lab.directories(node)[1])
    ends = ["--from", end(address_of(lab, pod, server), PORT), "--to", end(server, PORT)]
    before = contents(bpffs)
    done = lab.command(node, ["trace", *ends, "--proto", "udp", *words, "-o", "json"], check=False)
    after = contents(bpffs)
    assert {name for name in before if before[name] != after[name]} == set()
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def send(lab: EgressLab, pod: str, server: str) -> tuple[str, int]:
    """One datagram of the pod; who the server takes its sender for."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET

    def opened(address: str) -> socket.socket:
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.bind((address, PORT))
        made.settimeout(10)
        return made

    with (
        lab.lab.call(SERVER, lambda: opened(server)) as receiver,
        lab.lab.call(pod, lambda: opened(address_of(lab, pod, server))) as sender,
    ):
        sender.sendto(b"x", (server, PORT))
        _, (address, port, *_) = receiver.recvfrom(16)
    return str(address), int(port)


@ENDS
def test_at_the_node_of_the_pod_it_goes_to_the_gateway(lab: EgressLab, server: str, source: str) -> None:
    del source
    found = trace(lab, "n1", "pay", server)
    step = found["steps"][-1]
    assert (step["program"], step["reason"], step["object"]) == ("sg_pod_tc", "SG_OK_EGRESS", "EgressGateway/payments")
    told = " ".join(found["sentences"])
    assert "to gateway 198.51.100.2, which changes its source." in told
    assert "198.51.100.2" in found["route"]


@ENDS
def test_a_pod_that_is_not_selected_is_left_alone(lab: EgressLab, server: str, source: str) -> None:
    del source
    found = trace(lab, "n1", "plain", server)
    assert not found["dropped"]
    assert {step["object"] for step in found["steps"]} == {""}
    assert "leaves it to the kernel" in " ".join(found["sentences"])


@ENDS
@pytest.mark.parametrize("pod", ["pay", "ongw"])
def test_at_the_gateway_a_flow_that_is_new_and_one_that_is_known(
    lab: EgressLab, pod: str, server: str, source: str
) -> None:
    arrives = ("--device", "sg-egress0") if pod == "pay" else ()
    new = trace(lab, "g1", pod, server, *arrives)
    assert "begins a session" in " ".join(new["sentences"])
    assert new["steps"][-1]["object"].startswith("EgressGateway/payments")
    seen = send(lab, pod, server)
    assert seen[0] == source
    known = trace(lab, "g1", pod, server, *arrives)
    told = f"udp {end(*seen)} → {end(server, PORT)}"
    assert known["steps"][-1]["after"].startswith(told)
    assert "has a mapping of" in " ".join(known["sentences"])
    assert not known["dropped"]
