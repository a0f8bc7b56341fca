"""Addresses of NAT46Gateways on the segment: each has one owner, and a host there needs no route."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bench.nat_labs import gateway
from e2e.lab import natlab
from e2e.lab.balance import BALANCER, CLIENT, SECOND
from e2e.lab.natlab import CLIENT4, CLIENT6, GATEWAY, SERVER4, SERVER6, NatHost, embed
from e2e.lab.run import LabRun
from tests.netns.nat import PORT, Stage, staged
from tests.netns.test_lb_announce import announce, answered_by, has, lab, link_address, told, wait

__all__ = ["lab"]  # a fixture

POOL = ("203.0.113.64", "203.0.113.65")
VIP, MAPPED = "203.0.113.90", "203.0.113.100"
SEGMENT = pytest.mark.parametrize("address", ["203.0.113.81", "2001:db8:5::81"])


def stateful(*cidrs: str, **spec: Any) -> dict[str, Any]:
    pools = [{"cidr": cidr} for cidr in cidrs]
    return gateway({"prefix": str(natlab.PREFIX), "stateful": {"pools": pools}, "announce": "L2", **spec}, "lab")


SERVICE = {"vip": VIP, "port": 80, "protocol": "UDP", "backends": [{"address": SERVER6.ip, "port": PORT}]}
WITH_VIP = stateful("203.0.113.64/31", services=[SERVICE])


def forget_routes(stage: Stage, *hosts: NatHost) -> None:
    for host in hosts:
        stage.lab.ip(host.role, "route del default")


@pytest.fixture
def stage() -> Iterator[Stage]:
    """The IPv4 hosts know their own segments and nothing else."""
    with staged(WITH_VIP) as made:
        forget_routes(made, SERVER4, CLIENT4)
        yield made


def on_gateway(stage: Stage, address: str) -> bool:
    return has(stage.lab, GATEWAY, address)


def test_a_host_on_the_segment_answers_clients_and_reaches_services_without_a_route(stage: Stage) -> None:
    for address in (*POOL, VIP):
        wait(lambda address=address: on_gateway(stage, address), f"{address} is not announced")  # type: ignore[misc]
    client, server = stage.udp(CLIENT6), stage.udp(SERVER4, PORT)
    client.sendto(b"question", (embed(SERVER4.ip), PORT))
    data, seen = server.recvfrom(100)
    assert (data, seen[0] in POOL) == (b"question", True)
    server.sendto(b"answer", seen)
    assert client.recvfrom(100)[0] == b"answer"
    backend, outside = stage.udp(SERVER6, PORT), stage.udp(SERVER4)
    outside.sendto(b"hello", (VIP, 80))
    data, peer = backend.recvfrom(100)
    backend.sendto(data.upper(), peer)
    assert outside.recvfrom(100)[0] == b"HELLO"


def test_a_pool_address_is_not_the_hosts(stage: Stage) -> None:
    """What belongs to no session is dropped, and a program that listens everywhere does not listen there."""
    wait(lambda: on_gateway(stage, POOL[0]), "it is not announced")
    everywhere = NatHost(GATEWAY, "203.0.113.1/25", "0.0.0.0/0")
    listener = stage.udp(everywhere, PORT + 9, "0.0.0.0")
    stage.udp(SERVER4).sendto(b"stray", (POOL[0], PORT + 9))
    listener.settimeout(0.5)
    with pytest.raises(TimeoutError):
        listener.recv(100)


def test_addresses_go_when_they_are_not_announced_any_more(stage: Stage) -> None:
    wait(lambda: on_gateway(stage, POOL[0]), "it is not announced")
    stage.apply(stateful("203.0.113.64/31", announce="None"))
    wait(lambda: not any(on_gateway(stage, address) for address in (*POOL, VIP)), "an address stays")


def test_a_pool_outside_of_every_subnet_is_told() -> None:
    with staged(stateful("192.0.2.64/31")) as stage:
        wait(lambda: "has a subnet with it" in stage.message(), stage.message())
        assert "192.0.2.64 should be announced" in stage.message()
        assert not on_gateway(stage, "192.0.2.64")
        stage.apply(stateful("192.0.2.64/31", announce="None"))
        wait(lambda: stage.message() == "", stage.message())


def test_a_mapped_address_is_announced() -> None:
    mapping = {"ipv4": f"{MAPPED}/32", "ipv6": f"{SERVER6.ip}/128"}
    item = gateway({"prefix": str(natlab.PREFIX), "stateless": {"mappings": [mapping]}, "announce": "L2"}, "lab")
    with staged(item) as stage:
        forget_routes(stage, SERVER4)
        wait(lambda: on_gateway(stage, MAPPED), "it is not announced")
        done = stage.lab.run(SERVER4.role, ["ping", "-n", "-c1", "-W10", MAPPED], check=False)
        assert "1 received" in done.stdout, done.stdout


@SEGMENT
def test_the_next_owner_waits_until_the_former_one_has_let_go(lab: LabRun, address: str) -> None:
    """A share of a pool that moves: never two owners."""
    up = lab.device("up")
    first = announce(lab, BALANCER, address, BALANCER, devices="*")
    wait(lambda: has(lab, BALANCER, address), "the first owner does not take the address")
    first.terminate()  # its agent is gone; its kernel answers
    first.wait()
    second = announce(lab, SECOND, address, SECOND, devices="*")
    try:
        wait(lambda: "another machine" in told(lab, SECOND).read_text(), "nobody says who has the address")
        assert not has(lab, SECOND, address)
        length = 128 if ":" in address else 32
        lab.ip(BALANCER, f"addr del {address}/{length} dev {up}")
        wait(lambda: has(lab, SECOND, address), "the next owner does not take the address")
        wait(lambda: answered_by(lab, address) == link_address(lab, SECOND), "the client does not find it")
    finally:
        second.terminate()
        second.wait()


@SEGMENT
def test_of_several_nodes_one_has_an_address(lab: LabRun, address: str) -> None:
    agents = [announce(lab, BALANCER, address, BALANCER, SECOND, devices="*")]
    try:
        wait(lambda: has(lab, BALANCER, address), "the preferred node does not take the address")
        agents.append(announce(lab, SECOND, address, BALANCER, SECOND, devices="*"))
        wait(lambda: answered_by(lab, address) == link_address(lab, BALANCER), "the client does not find it")
        assert not has(lab, SECOND, address)
        lab.ip("br", f"link set {lab.device(BALANCER)} down")
        wait(lambda: has(lab, SECOND, address), "the next node does not take over")
        lab.ip("br", f"link set {lab.device(BALANCER)} up")
        wait(lambda: has(lab, BALANCER, address) != has(lab, SECOND, address), "both or none have it")
    finally:
        for agent in agents:
            agent.terminate()
            agent.wait()
    shown = json.loads(lab.run(CLIENT, ["ip", "-j", "neigh", "show", address]).stdout)
    assert len(shown) == 1
