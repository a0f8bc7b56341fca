"""Hosts with explicit mappings: as the IPv4 side reaches them, and as native IPv6 hosts do, beside other gateways."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from e2e.lab import topology
from e2e.lab.run import LabRun
from e2e.lab.sixgate import Sixgate
from e2e.lab.topology import CLIENT4, CLIENT6, GATEWAY, PREFIX, SERVER4, SERVER6, Host, embed
from tests.netns.streams import counters, moved, start_gateway
from tests.rfc.cases.base import ICMPV6, icmp6, ip6, udp

NEAR, FAR = "2001:db8:1::10", "2001:db8:2::20"  # native addresses of two hosts
FAR4, NEAR4 = "192.0.2.20", "192.0.2.10"
FAR_MAPPING = {"ipv4": f"{FAR4}/32", "ipv6": f"{FAR}/128"}
NEAR_MAPPING = {"ipv4": f"{NEAR4}/32", "ipv6": f"{NEAR}/128"}


@dataclass(frozen=True, slots=True)
class Scene:
    lab: LabRun
    sixgate: Sixgate

    def ping(self, host: Host, address: str, *more: str) -> int:
        """How many of two echo requests are answered."""
        done = self.lab.run(host.role, ["ping", "-n", "-c2", "-i0.1", "-W10", *more, address], check=False)
        return sum("bytes from" in line for line in done.stdout.splitlines())


def with_native_addresses(lab: LabRun) -> None:
    topology.build(lab)
    for host, own in ((CLIENT6, NEAR), (SERVER6, FAR)):
        lab.ip(host.role, f"addr add {own}/128 dev {lab.device('up')} nodad")
        lab.ip(GATEWAY, f"route add {own}/128 via {host.address} dev {lab.device(host.role)}")


@pytest.fixture(scope="module", params=["Disabled", "BestEffort"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A gateway at every device that maps SERVER6's native address, and a stateful one beside it."""
    with LabRun() as lab:
        with_native_addresses(lab)
        pool = {"prefix": "2001:db8:65::/96", "stateful": {"pools": [{"cidr": "198.18.0.0/30"}]}}
        yield Scene(
            lab, start_gateway(lab, mappings=[FAR_MAPPING], acceleration=request.param, beside={"internet": pool})
        )


def test_native_ipv6_to_a_mapped_host_is_nobodys(scene: Scene) -> None:
    """Whole packets and fragments, both ways."""
    before = counters(scene.sixgate)
    assert scene.ping(CLIENT6, FAR, "-I", NEAR) == 2
    assert scene.ping(CLIENT6, FAR, "-I", NEAR, "-s", "3000") == 2
    assert scene.ping(SERVER6, NEAR, "-I", FAR) == 2
    assert not [name for name in moved(before, counters(scene.sixgate)) if name.startswith("DROP_")]


def test_the_ipv4_side_reaches_the_mapped_host(scene: Scene) -> None:
    assert scene.ping(CLIENT4, FAR4) == 2
    assert scene.ping(SERVER6, SERVER4.seen_from(6), "-I", FAR) == 2


def test_clients_of_the_other_gateway_reach_both(scene: Scene) -> None:
    """NEAR is nobody's but a client of the stateful gateway."""
    through = f"2001:db8:65::{SERVER4.address}"
    for host, own in ((CLIENT6, NEAR), (SERVER6, FAR)):
        scene.lab.ip(GATEWAY, f"route replace 198.18.0.0/30 dev {scene.lab.device(SERVER4.role)}")
        scene.lab.ip(SERVER4.role, f"route replace 198.18.0.0/30 via {SERVER4.gateway}")
        assert scene.ping(host, through, "-I", own) == 2
    assert scene.ping(CLIENT6, FAR, "-I", NEAR) == 2


@pytest.mark.parametrize(("about", "name"), [(NEAR, "left alone"), (str(embed(SERVER4.ipv4)), "translated")])
def test_an_error_to_a_mapped_host_goes_the_way_of_what_it_is_about(scene: Scene, about: str, name: str) -> None:
    """From a sender that no gateway can map: Packet Too Big of a native connection has to arrive."""
    inner = ip6(udp(FAR, about), src=FAR, dst=about)
    error = ip6(icmp6(2, 0, (1300).to_bytes(4, "big"), inner, NEAR, FAR), ICMPV6, NEAR, FAR)

    def listen() -> socket.socket:
        made = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        made.settimeout(20 if name == "left alone" else 0.3)
        return made

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(error, (FAR, 0))

    before = counters(scene.sixgate)
    with scene.lab.call(SERVER6.role, listen) as sock:
        scene.lab.call(CLIENT6.role, send)
        kinds = []
        try:
            while 2 not in kinds:
                kinds.append(sock.recv(2000)[0])
        except TimeoutError:
            pass
    seen = moved(before, counters(scene.sixgate))
    assert (2 in kinds) == (name == "left alone")
    assert ("OK_64" in seen or "OK_ICMP_ERROR" in seen or "SLOW_REWRITE" in seen) == (name == "translated"), seen


def test_a_stray_to_a_mapped_address_without_a_host_is_refused() -> None:
    """The route to it leads back where the packet came from."""
    with LabRun() as lab:
        with_native_addresses(lab)
        lab.ip(GATEWAY, f"route replace {FAR}/128 via {CLIENT6.address} dev {lab.device(CLIENT6.role)}")
        scene = Scene(lab, start_gateway(lab, mappings=[FAR_MAPPING]))
        done = lab.run(CLIENT6.role, ["ping", "-n", "-c1", "-W10", "-I", NEAR, FAR], check=False)
        assert counters(scene.sixgate)["DROP_SRC_UNMAPPED"] == 1
        assert CLIENT6.gateway in done.stdout, done.stdout


def test_mappings_and_prefix_in_two_objects_are_as_one() -> None:
    """Mappings of an object without a prefix serve the only one that there is."""
    with LabRun() as lab:
        with_native_addresses(lab)
        mapped = {"stateless": {"mappings": [FAR_MAPPING, NEAR_MAPPING]}}
        scene = Scene(lab, start_gateway(lab, beside={"a-mapped": mapped}))
        assert scene.ping(CLIENT4, FAR4) == 2
        assert scene.ping(SERVER6, f"{PREFIX.network_address}{SERVER4.address}", "-I", FAR) == 2
        assert "DROP_SRC_UNMAPPED" not in counters(scene.sixgate)
