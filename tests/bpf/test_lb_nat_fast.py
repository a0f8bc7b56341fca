"""Mode NAT's common packet in XDP: what it sends is what tc would have sent, everything else it leaves alone."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pytest

from sixgate.node.bpf import BpfObject, Map, Program, XdpContext, load_manifest
from sixgate.node.bpf.layouts import SgFeature, SgLbBackendFlag, SgLbFlag, SgLbKind
from tests.bpf.balancer import Tables
from tests.bpf.frames import ACK, FIN, RST, SYN, TCP, UDP, Out, frame, read, tcp, udp, udp_body
from tests.bpf.harness import OBJECTS, TC_ACT_REDIRECT, XDP_DROP, XDP_PASS, XDP_TX
from tests.bpf.lb_nat_fuzz import BACKENDS, CLIENTS, NATTED, VIPS, gateway
from tests.bpf.nat_lab import NatLab

NEIGHBOURS = ("198.51.100.7", "198.51.100.80")
FAMILIES = (False, True)
SAME_PORT = {False: 81, True: 82}  # of a VIP of that family, in front of a backend of the same one
BACKEND_PORT = {False: 8080, True: 82}
TRIES = 5  # a way is a quarter of a second old at most, and the packet that finds it older goes to tc
PAYLOAD = b"sixgate!sixgate!"  # 44 bytes of IPv4: a shorter one is no common packet


@dataclass(frozen=True, slots=True)
class Fast:
    """The gateway in tc, with XDP in front of it that has the same maps."""

    lab: NatLab
    program: Program
    maps: dict[str, Map]
    known: dict[int, Out] = field(default_factory=dict)  # the last packets that went to a backend, by protocol

    def xdp(self, packet: bytes) -> tuple[int, bytes]:
        index = self.lab.v6 if packet[12:14] == b"\x86\xdd" else self.lab.v4
        for _ in range(TRIES):
            result = self.program.test_run(packet, context=XdpContext(ingress_ifindex=index))
            if result.retval != XDP_PASS:
                break
        return result.retval, result.data

    def left(self, packet: bytes) -> bool:
        """Whether XDP leaves the packet to tc, as it is, and no session notices."""
        before = self.lab.sessions()
        return self.xdp(packet) == (XDP_PASS, packet) and self.lab.sessions() == before

    def sent(self, packet: bytes) -> Out:
        """What XDP sends; the same as tc would have sent."""
        verdict, data = self.xdp(packet)
        assert verdict == XDP_TX
        out = read(data)
        assert out.sound
        assert out == self.lab.send(packet).out
        return out

    def connect(self, six: bool, *, port: int = 0) -> None:
        """A TCP connection and a UDP flow through tc."""
        client, vip, at = CLIENTS[six], VIPS[six], port or SAME_PORT[six]
        for packet in (tcp(client, 4000, vip, at, SYN), udp(client, 4000, vip, at, PAYLOAD)):
            seen = self.lab.send(packet)
            assert seen.sent
            self.known[seen.out.proto] = seen.out
        self.lab.send(self.reply(TCP, SYN | ACK))
        self.lab.send(tcp(client, 4000, vip, at, ACK))

    def reply(self, proto: int, flags: int = ACK, payload: bytes = PAYLOAD) -> bytes:
        """What the backend of the last connection, or flow, sends back."""
        to = self.known[proto]
        if proto == UDP:
            return udp(to.dst, to.dport, to.src, to.sport, payload)
        return tcp(to.dst, to.dport, to.src, to.sport, flags, payload=payload)


def asked(six: bool, proto: int, payload: bytes = PAYLOAD, flags: int = ACK) -> bytes:
    """A client's packet to its VIP."""
    if proto == UDP:
        return udp(CLIENTS[six], 4000, VIPS[six], SAME_PORT[six], payload)
    return tcp(CLIENTS[six], 4000, VIPS[six], SAME_PORT[six], flags, payload=payload)


@pytest.fixture
def fast(bpffs: Path) -> Iterator[Fast]:
    with gateway() as lab:
        for address in NEIGHBOURS:
            words = ["neigh", "replace", address, "lladdr", "02:00:00:00:00:04", "dev", "v4", "nud", "permanent"]
            subprocess.run(["ip", *words], check=True)
        config = {"features": int(SgFeature.SG_F_NAT | SgFeature.SG_F_STATEFUL | SgFeature.SG_F_LB), "l2_len": 14}
        with BpfObject.open("sg_xdp", data=load_manifest(OBJECTS).read("sg_xdp")) as opened:
            opened.set_constants({"sg_cfg": config})
            for name in set(opened.maps) & set(lab.loaded.maps):
                if name.startswith("."):
                    continue
                lab.map(name).pin(bpffs / name)
                opened.set_max_entries(name, lab.map(name).info.max_entries)
            opened.reuse_pinned(bpffs)
            opened.load()
            with opened.program("sg_uplink_xdp") as program:
                yield Fast(lab, program, lab.loaded.maps)


def test_both_ways_are_what_tc_would_send(fast: Fast) -> None:
    for six, proto in product(FAMILIES, (TCP, UDP)):
        fast.connect(six)
        there = fast.sent(asked(six, proto))
        assert (there.dst, there.dport, there.ttl) == (BACKENDS[six], BACKEND_PORT[six], 63)
        back = fast.sent(fast.reply(proto))
        assert (back.src, back.sport) == (VIPS[six], SAME_PORT[six])
        assert (back.dst, back.dport) == (CLIENTS[six], 4000)


def counted(fast: Fast, six: bool) -> list[int]:
    """Packets and bytes wherever those of the TCP connection of this family are counted."""
    backend, way = 1 + six, "to4" if six else "to6"
    sessions = fast.lab.sessions().values()
    (session,) = (each for each in sessions if each["proto"] == TCP and each["backend"] == backend)
    numbers = [int(session[each][what]) for each in ("out", "in") for what in ("packets", "bytes")]
    numbers += [fast.lab.stat(int(six))[each] for each in ("out", "in")]
    numbers.append(sum(int(cpu[way]["bytes"]) for cpu in fast.lab.record("sg_nat_stats", int(six))))
    tables = Tables(fast.maps)
    return numbers + [
        each[what] for each in (tables.stats(), tables.backend_stats(backend)) for what in ("packets", "bytes", "flows")
    ]


def test_sessions_objects_vips_and_backends_count(fast: Fast) -> None:
    for six in FAMILIES:
        fast.connect(six)
        packet, answer = asked(six, TCP), fast.reply(TCP)
        steps = []
        for run in (fast.xdp, fast.lab.run):
            before = counted(fast, six)
            assert [run(each)[0] in (XDP_TX, TC_ACT_REDIRECT) for each in (packet, packet, answer)] == [True] * 3
            steps.append([now - was for was, now in zip(before, counted(fast, six), strict=True)])
        assert steps[0] == steps[1]
        assert steps[0][:4] == [2, 2 * len(packet) - 28, 1, len(answer) - 14]


def test_a_session_lives_on_by_what_clients_send(fast: Fast) -> None:
    fast.connect(False)

    def left() -> dict[int, int]:
        return {session["proto"]: session["expires"] for session in fast.lab.sessions().values()}

    fresh = left()
    fast.lab.age(100)
    for proto in (TCP, UDP):
        assert fast.xdp(fast.reply(proto))[0] == XDP_TX
    assert left()[TCP] >= fresh[TCP]
    assert left()[UDP] == fresh[UDP] - 100
    assert fast.xdp(asked(False, UDP))[0] == XDP_TX
    assert left()[UDP] >= fresh[UDP]


def test_what_changes_or_ends_a_session_is_for_tc(fast: Fast) -> None:
    for six in FAMILIES:
        fast.connect(six)
        assert all(fast.left(asked(six, TCP, flags=flags)) for flags in (SYN, SYN | ACK, ACK | FIN, RST, RST | ACK))
        assert all(fast.left(fast.reply(TCP, flags)) for flags in (SYN | ACK, ACK | FIN, RST))
        assert fast.left(tcp(CLIENTS[six], 4001, VIPS[six], SAME_PORT[six], ACK, payload=PAYLOAD))
        assert fast.xdp(tcp(CLIENTS[six], 4000, VIPS[six], 99, ACK, payload=PAYLOAD))[0] == XDP_DROP
        to = fast.known[TCP]
        assert fast.left(tcp(to.dst, 9, to.src, to.sport, ACK, payload=PAYLOAD))
        assert fast.lab.send(asked(six, TCP, flags=ACK | FIN)).sent
        assert fast.left(asked(six, TCP))  # it closes


def test_a_session_whose_time_is_over_is_for_tc(fast: Fast) -> None:
    for six in FAMILIES:
        fast.connect(six)
        packets = [asked(six, UDP), fast.reply(UDP)]
        assert [fast.xdp(packet)[0] for packet in packets] == [XDP_TX] * 2
        fast.lab.age(400)
        assert [fast.xdp(packet) for packet in packets] == [(XDP_PASS, packet) for packet in packets]


def test_a_connection_that_is_half_open_is_for_tc(fast: Fast) -> None:
    for six in FAMILIES:
        seen = fast.lab.send(asked(six, TCP, payload=b"", flags=SYN))
        fast.known[TCP] = seen.out
        assert fast.left(asked(six, TCP))
        assert fast.left(fast.reply(TCP))


def test_packets_that_are_not_plain_are_for_tc(fast: Fast) -> None:
    for six in FAMILIES:
        fast.connect(six)
        client, vip, port = CLIENTS[six], VIPS[six], SAME_PORT[six]
        body = udp_body(client, 4000, vip, port, PAYLOAD)
        fragment = bytes([UDP, 0, 0, 1, 0, 0, 0, 7]) if six else b"\x20\0"
        assert fast.left(frame(client, vip, UDP, body, extra=fragment))
        assert fast.left(frame(client, vip, UDP, body, ttl=1))
        assert fast.left(frame(client, vip, UDP, body[:6] + b"\0\0" + body[8:]))
        group = asked(six, UDP)
        assert fast.left(bytes.fromhex("01005e000001") + group[6:])
        assert fast.xdp(group[:-1])[0] == XDP_DROP  # truncated
        long = asked(six, UDP, bytes(1480))
        assert fast.left(long)
        if not six:
            assert fast.left(group[:24] + b"\x12\x34" + group[26:])  # the header's checksum is wrong


def test_a_checksum_that_the_sender_left_to_its_device_is_for_tc(fast: Fast) -> None:
    for six, proto in product(FAMILIES, (TCP, UDP)):
        fast.connect(six)
        for packet in (asked(six, proto), fast.reply(proto)):
            head = packet[22:54] if six else packet[26:34]
            at = 54 if six else 34
            total = sum(int.from_bytes(head[i : i + 2]) for i in range(0, len(head), 2)) + proto + len(packet) - at
            while total >> 16:
                total = (total & 0xFFFF) + (total >> 16)
            field = at + (6 if proto == UDP else 16)
            assert fast.left(packet[:field] + total.to_bytes(2) + packet[field + 2 :])


def test_backends_of_the_other_family_are_for_tc(fast: Fast) -> None:
    for six in FAMILIES:
        other = {False: 82, True: 81}[six]
        fast.connect(six, port=other)
        packet = tcp(CLIENTS[six], 4000, VIPS[six], other, ACK, payload=PAYLOAD)
        assert fast.left(packet)
        assert fast.lab.send(packet).sent


def test_a_backend_that_ended_or_is_another_one_now_is_for_tc(fast: Fast) -> None:
    for six in FAMILIES:
        fast.connect(six)
        tables, number, address = Tables(fast.maps), 1 + six, BACKENDS[six]
        packet = asked(six, TCP)
        assert fast.xdp(packet)[0] == XDP_TX
        tables.backend(number, address, SgLbKind.SG_LB_NAT, flags=int(SgLbBackendFlag.SG_LB_ENDED))
        assert fast.left(packet)
        tables.backend(number, "2001:db8:3::81" if six else "198.51.100.81", SgLbKind.SG_LB_NAT)
        assert fast.left(packet)
        tables.backend(number, address, SgLbKind.SG_LB_NAT)
        assert fast.xdp(packet)[0] == XDP_TX


def test_vips_that_ask_for_every_packet_are_for_tc(fast: Fast) -> None:
    tables = Tables(fast.maps)
    tables.generation = 1000
    for six, flag in product(FAMILIES, (SgLbFlag.SG_LB_SOURCES, SgLbFlag.SG_LB_AFFINITY)):
        vip, port, packet = VIPS[six], SAME_PORT[six], asked(six, TCP)
        key = {"addr": vip, "port": port, "proto": TCP}
        known = fast.lab.record("sg_lb_vip", key)
        fast.connect(six)
        assert fast.xdp(packet)[0] == XDP_TX
        for flags in (NATTED | int(flag), NATTED):
            fast.maps["sg_lb_vip"].set(key, known | {"flags": flags})
            tables.generation += 2
            fast.maps["sg_lb_gen"].set(0, tables.generation)
            assert (fast.xdp(packet)[0] == XDP_TX) is (flags == NATTED)


def test_bent_packets_are_left_or_sent_as_tc_sends_them(fast: Fast) -> None:
    for six in FAMILIES:
        fast.connect(six)
        chance = random.Random(six)
        whole = [asked(six, TCP), asked(six, UDP), fast.reply(TCP), fast.reply(UDP)]
        sent = 0
        for _ in range(4000):
            packet = bytearray(chance.choice(whole))
            for _ in range(chance.choice((0, 1, 1, 2))):
                packet[chance.randrange(len(packet))] ^= 1 << chance.randrange(8)
            verdict, data = fast.xdp(bytes(packet))
            if verdict == XDP_TX:
                sent += 1
                assert data[14:] == fast.lab.run(bytes(packet))[1][14:]
            else:
                assert verdict != XDP_PASS or data == bytes(packet)
        assert sent > 500
