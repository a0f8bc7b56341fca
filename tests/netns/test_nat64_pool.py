"""Stateful NAT64 with a pool, live: what real programs and sockets see (RFC 6146, 4787, 5382, 5508)."""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from collections.abc import Iterator

import pytest

from e2e.lab import traffic
from e2e.lab.natlab import CLIENT4, CLIENT6, SERVER4, SERVER6, NatHost, embed
from e2e.lab.topology import Host
from sixgate.node.bpf import missing_permission
from tests.bpf.frames import UDP, frame, udp_body
from tests.netns.nat import PORT, Stage, nat64, quiet, staged

POOL = tuple(f"198.51.100.{last}" for last in range(4))
STATIC = [
    {"protocol": p, "ipv4": "198.51.100.3", "ipv4Port": 8080, "ipv6": CLIENT6.ip, "ipv6Port": 9090}
    for p in ("TCP", "UDP")
]
GATEWAY = nat64(staticBindings=STATIC, pools=[{"cidr": "198.51.100.0/30", "ports": {"first": 512}}])


@pytest.fixture(scope="module")
def one_stage() -> Iterator[Stage]:
    if reason := missing_permission():
        pytest.skip(reason)
    with staged(GATEWAY) as stage:
        yield stage


@pytest.fixture
def stage(one_stage: Stage) -> Iterator[Stage]:
    yield one_stage
    one_stage.close_sockets()


def exchange(stage: Stage, client: socket.socket, server: socket.socket, host_ip: str) -> tuple[str, int]:
    """Sends one packet from the client to the server and back; who the server takes the client for."""
    del stage
    client.sendto(b"question", (embed(host_ip), server.getsockname()[1]))
    data, seen = server.recvfrom(100)
    assert data == b"question"
    server.sendto(b"answer", seen)
    assert client.recvfrom(100)[0] == b"answer"
    return str(seen[0]), int(seen[1])


def test_programs_reach_the_ipv4_internet(stage: Stage) -> None:
    """curl, ping and traceroute, as typed."""
    payload = stage.lab.workdir / "payload"
    payload.write_bytes(bytes(range(256)) * 8192)
    server = Host(SERVER4.role, 4, ipaddress.IPv4Address(SERVER4.ip), SERVER4.gateway_address)
    with traffic.http_server(stage.lab, server, payload.parent, sys.executable):
        url = f"http://[{embed(SERVER4.ip)}]:{traffic.HTTP_PORT}/payload"
        got = traffic.curl(stage.lab, CLIENT6.role, url, stage.lab.workdir / "got")
    assert got.status == 200
    assert got.sha256 == traffic.file_sha256(payload)
    assert traffic.ping(stage.lab, CLIENT6.role, embed(SERVER4.ip)).received == 5
    hops = traffic.traceroute(stage.lab, CLIENT6.role, embed(SERVER4.ip))
    assert hops == (CLIENT6.gateway, embed(SERVER4.ip))


def test_one_mapping_for_all_destinations(stage: Stage) -> None:
    """6146-5.2-EIM, 6146-OVERLOAD"""
    client = stage.udp(CLIENT6, PORT)
    seen = [exchange(stage, client, stage.udp(host, 4500), host.ip) for host in (SERVER4, CLIENT4)]
    assert seen[0] == seen[1]
    assert seen[0][0] in POOL
    other = exchange(stage, stage.udp(CLIENT6, PORT + 2), stage.udp(SERVER4, 4501), SERVER4.ip)
    assert other != seen[0]
    assert other[0] == seen[0][0], "paired: one client, one address"


def test_anybody_may_answer_a_mapping(stage: Stage) -> None:
    """6146-3.5.1-FILT: endpoint-independent filtering."""
    client = stage.udp(CLIENT6)
    seen = exchange(stage, client, stage.udp(SERVER4, 4500), SERVER4.ip)
    stranger = stage.udp(CLIENT4)
    stranger.sendto(b"hello", seen)
    data, source = client.recvfrom(100)
    assert data == b"hello"
    assert source[:2] == (embed(CLIENT4.ip), stranger.getsockname()[1])


def test_what_has_no_mapping_is_dropped(stage: Stage) -> None:
    """6146-3.5.1-NOBIB"""
    stage.sixgate.command(["nat", "flush", "--all"])  # else another client might have that very port
    client = stage.udp(CLIENT6, 6000)
    before = stage.stat("no_state")
    stage.udp(SERVER4).sendto(b"nobody", (POOL[1], 6000))
    assert quiet(client)
    assert stage.stat("no_state") > before


@pytest.mark.parametrize("port", [700, 701, 5000, 5001])
def test_range_and_parity_of_ports_are_kept(stage: Stage, port: int) -> None:
    """6146-RANGE, 6146-PARITY"""
    seen = exchange(stage, stage.udp(CLIENT6, port), stage.udp(SERVER4, 4500), SERVER4.ip)
    assert seen[1] % 2 == port % 2
    assert (seen[1] < 1024) == (port < 1024)


def test_two_clients_reach_each_other_by_their_pool_addresses(stage: Stage) -> None:
    """6146-3.8-HAIR, UDP: A sees B as its external address under the prefix, and the other way round."""
    a, b = stage.udp(CLIENT6), stage.udp(SERVER6)
    outside = stage.udp(SERVER4, 4500)
    seen_a, seen_b = (exchange(stage, each, outside, SERVER4.ip) for each in (a, b))
    a.sendto(b"hairpin", (embed(seen_b[0]), seen_b[1]))
    data, source = b.recvfrom(100)
    assert (data, source[0], source[1]) == (b"hairpin", embed(seen_a[0]), seen_a[1])
    b.sendto(b"and back", source[:2])
    data, source = a.recvfrom(100)
    assert (data, source[0], source[1]) == (b"and back", embed(seen_b[0]), seen_b[1])


def test_a_static_binding_is_reached_from_ipv4(stage: Stage) -> None:
    """6146-STATIC, UDP and TCP, and TCP through the hairpin (5382-8)."""
    inside = stage.udp(CLIENT6, 9090)
    outside = stage.udp(SERVER4)
    outside.sendto(b"to the binding", ("198.51.100.3", 8080))
    data, source = inside.recvfrom(100)
    assert (data, source[0]) == (b"to the binding", embed(SERVER4.ip))
    inside.sendto(b"answer", source[:2])
    assert outside.recvfrom(100)[1] == ("198.51.100.3", 8080)
    listener = stage.listener(CLIENT6, 9090)
    for host, target in ((SERVER4, "198.51.100.3"), (SERVER6, embed("198.51.100.3"))):
        caller = stage.tcp(host)
        caller.connect((target, 8080))
        accepted, _ = listener.accept()
        caller.sendall(b"over TCP")
        assert accepted.recv(100) == b"over TCP"
        accepted.close()


def test_big_packets_are_fragmented_both_ways(stage: Stage) -> None:
    """6146-3.4-FRAG: fragments of the client's and of the server's host."""
    client, server = stage.udp(CLIENT6), stage.udp(SERVER4, 4500)
    big = bytes(range(256)) * 20
    client.sendto(big, (embed(SERVER4.ip), 4500))
    data, seen = server.recvfrom(65535)
    assert data == big
    server.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: DF off
    server.sendto(big, seen)
    assert client.recvfrom(65535)[0] == big


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 1, 0), (1, 0, 2)], ids=str)
def test_fragments_that_come_before_their_first_one_follow_it(stage: Stage, order: tuple[int, ...]) -> None:
    """6146-3.4-FRAG: any order, both ways; the ports are in the first one only."""
    client, server = stage.udp(CLIENT6), stage.udp(SERVER4, 4500)
    payload = bytes(range(256)) * 10
    seen = exchange(stage, client, server, SERVER4.ip)
    ident = 0x1000 + order[0] * 16 + order[1]
    pieces = fragments(client.getsockname()[:2], (embed(SERVER4.ip), 4500), payload, ident)
    send_raw(stage, CLIENT6, [pieces[i] for i in order], embed(SERVER4.ip))
    assert server.recvfrom(65535) == (payload, seen)
    pieces = fragments((SERVER4.ip, 4500), seen, payload, ident)
    send_raw(stage, SERVER4, [pieces[i] for i in order], seen[0])
    assert client.recvfrom(65535)[0] == payload


def fragments(source: tuple[str, int], target: tuple[str, int], payload: bytes, ident: int) -> list[bytes]:
    """A UDP packet in three fragments, from layer 3."""
    (src, sport), (dst, dport) = source, target
    body = udp_body(src, sport, dst, dport, payload)
    made = []
    for at in range(0, len(body), 1024):
        more = at + 1024 < len(body)
        v6, v4 = struct.pack("!BBHI", UDP, 0, at | more, ident), struct.pack("!H", at // 8 | more << 13)
        made.append(frame(src, dst, UDP, body[at : at + 1024], extra=v6 if ":" in src else v4, ident=ident)[14:])
    return made


def send_raw(stage: Stage, host: NatHost, packets: list[bytes], target: str) -> None:
    def send() -> None:
        family = socket.AF_INET6 if host.family == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for packet in packets:
                raw.sendto(packet, (target, 0))

    stage.lab.call(host.role, send)


def test_an_error_comes_back_to_its_session(stage: Stage) -> None:
    """6146-3.6-ICMPERR: the port unreachable of an IPv4 host reaches the socket that it concerns."""
    client = stage.udp(CLIENT6)
    client.connect((embed(SERVER4.ip), 4999))
    client.send(b"is anybody there")
    with pytest.raises(ConnectionRefusedError):
        client.recv(100)
    assert [row["state"] for row in stage.sessions("--remote", SERVER4.ip, "--protocol", "udp")], "4787-12: it stays"


def test_a_refused_connection_ends_at_once(stage: Stage) -> None:
    caller = stage.tcp(CLIENT6)
    with pytest.raises(ConnectionRefusedError):
        caller.connect((embed(SERVER4.ip), 4998))


def test_an_unknown_protocol_is_answered(stage: Stage) -> None:
    """6146-3.4-OTHER"""

    def send() -> socket.socket:
        raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 132)
        raw.connect((embed(SERVER4.ip), 0))
        raw.settimeout(10)
        raw.send(bytes(16))
        return raw

    raw = stage.lab.call(CLIENT6.role, send)
    with raw, pytest.raises(OSError, match=r"refused|unreachable|Protocol"):
        raw.recv(100)


def test_sessions_are_listed_counted_and_ended(stage: Stage) -> None:
    stage.sixgate.command(["nat", "flush", "--all"])
    first, second = stage.udp(CLIENT6), stage.udp(SERVER6)
    outside = stage.udp(SERVER4, 4500)
    seen = exchange(stage, first, outside, SERVER4.ip)
    exchange(stage, second, outside, SERVER4.ip)
    (row,) = stage.sessions("--client", CLIENT6.ip)
    assert (row["object"], row["protocol"], row["state"]) == ("lab", "udp", "UDP")
    assert (row["client"], row["clientPort"]) == (CLIENT6.ip, first.getsockname()[1])
    assert (row["pool"], row["poolPort"]) == seen
    assert (row["remote"], row["remotePort"]) == (SERVER4.ip, 4500)
    assert (row["packetsOut"], row["packetsIn"]) == (1, 1)
    assert 100 <= row["leftS"] <= 301  # of 300, on however slow a machine
    assert len(stage.sessions("--protocol", "udp")) == 2
    assert stage.sessions("--protocol", "tcp") == stage.sessions("--client", "2001:db8:9::/48") == []
    assert len(stage.sessions("--pool", seen[0], "--client", "2001:db8:6:1::/64", "--state", "udp")) == 1
    assert stage.nat("list", "--by", "client") == [
        {"client": CLIENT6.ip, "sessions": 1},
        {"client": SERVER6.ip, "sessions": 1},
    ]
    assert stage.stat("sessions") == 2
    done = stage.sixgate.command(["nat", "flush", "--client", "2001:db8:6:1::/64"])
    assert done.stdout == "1 session ended.\n"
    assert [row["client"] for row in stage.sessions()] == [SERVER6.ip]
    outside.sendto(b"late", seen)
    assert quiet(first)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["list", "--client", "nonsense"], "address or a CIDR"),
        (["list", "--protocol", "sctp"], "tcp, udp or icmp"),
        (["list", "--state", "open"], "one of OUT_INIT"),
        (["list", "--pool", "198.51.100.0/24"], "must be an address"),
        (["flush"], "or --all"),
    ],
)
def test_wrong_filters_are_told(stage: Stage, words: list[str], says: str) -> None:
    done = stage.sixgate.command(["nat", *words], check=False)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.replace("│", " ").split())
