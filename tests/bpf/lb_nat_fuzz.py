"""Bent packets through VIPs in mode NAT, in tc, both ways: what leaves goes to a backend, or from a VIP, with right
checksums; every drop is counted.

Part of tests/bpf/lb_fuzz.py. Sessions end and tables fill up under bent packets, so each ROUND packets have a gateway
of their own.
"""

from __future__ import annotations

import tempfile
from ipaddress import ip_address
from pathlib import Path

from sixgate.node.bpf.layouts import SgFeature, SgLbFlag, SgLbKind
from tests.bpf.balancer import Slots, Tables
from tests.bpf.frames import TCP, UDP, echo, icmp_error, read, tcp, udp
from tests.bpf.lb_tool import Result, drops, run_tool
from tests.bpf.nat_lab import Domain, NatLab, Pool, mapped

ROUND = 250_000
CLIENTS, VIPS = ("198.51.100.7", "2001:db8:c::7"), ("203.0.113.1", "2001:db8:a::1")
POOLS, BACKENDS = (Pool("192.0.2.1", n=2), Pool("2001:db8:5::1", n=2)), ("198.51.100.80", "2001:db8:3::80")
SYN, SYN_ACK, ACK, FIN_ACK = 2, 18, 16, 17
NATTED = int(SgLbFlag.SG_LB_SERVICE | SgLbFlag.SG_LB_NATTED)


def gateway() -> NatLab:
    """VIPs of both families, with ports whose backends are of both, of the same, and of the other family."""
    features = SgFeature.SG_F_NAT | SgFeature.SG_F_STATEFUL | SgFeature.SG_F_LB
    lab = NatLab(tuple(Domain(pools=(pool,), prefix=None, max_sessions=2048) for pool in POOLS), features=features)
    tables = Tables(lab.loaded.maps)
    for number, address in enumerate(BACKENDS, 1):
        tables.backend(number, address, SgLbKind.SG_LB_NAT)
    for number, slots in enumerate(([1, 2], [1], [2])):
        tables.table(number, Slots([(each, 0) for each in slots]))
    for number, vip in enumerate(VIPS):
        entry = {"addr": mapped(vip), "port": 0, "proto": 0}
        lab.put("sg_st_svcs", {number: {"vip": entry, "obj": number, "obj4": 0, "obj6": 1}})
        tables.vip(vip, flags=int(SgLbFlag.SG_LB_ECHO | SgLbFlag.SG_LB_NATTED), svc=number)
        for port, table, delta in ((80, 0, 0), (81, 1, 7999), (82, 2, 0)):
            for proto in (TCP, UDP):
                tables.vip(vip, port, proto, table, flags=NATTED, svc=number, port_delta=delta)
    return lab


def corpus(lab: NatLab) -> list[bytes]:
    """Packets of clients, answers of backends to them, and errors about both."""
    made: list[bytes] = []
    for client, vip in zip(CLIENTS, VIPS, strict=True):
        made.append(echo(client, vip, 7))
        for port in (80, 81, 82, 99):
            begin = [tcp(client, 4000, vip, port, SYN), udp(client, 4000, vip, port)]
            made += [
                *begin,
                tcp(client, 4000, vip, port, ACK, payload=b"sixgate!"),
                tcp(client, 4000, vip, port, FIN_ACK),
            ]
            for packet in begin if port != 99 else ():
                made += answers(lab.run(packet)[1])
    return made


def answers(sent: bytes) -> list[bytes]:
    """What comes back to a packet that was sent to a backend."""
    out = read(sent)
    six = ":" in out.src
    router = "2001:db8:f::9" if six else "198.51.100.9"
    errors = [icmp_error(each, out.src, 1 if six else 3, 4 if six else 3, sent) for each in (router, out.dst)]
    errors.append(icmp_error(router, out.src, 2 if six else 3, 0 if six else 4, sent, info=1280))
    if out.proto == UDP:
        return [udp(out.dst, out.dport, out.src, out.sport), *errors]
    return [tcp(out.dst, out.dport, out.src, out.sport, flags) for flags in (SYN_ACK, ACK, FIN_ACK)] + errors


def fuzz(packets: int, seed: int, backends: tuple[str, ...] = BACKENDS) -> Result:
    """`packets` bent packets; needs no namespace, the gateway has its own. `backends`: who may get packets."""
    total = Result(0, 0, 0, 0, 0, "")
    for number, start in enumerate(range(0, packets, ROUND)):
        with tempfile.TemporaryDirectory() as scratch, gateway() as lab:
            frames = corpus(lab)
            before = drops(lab.loaded)
            pool = [str(ip_address(each.first) + i) for each in POOLS for i in range(each.n)]
            more = [b"".join(ip_address(mapped(each)).packed for each in some).hex() for some in (pool, backends, VIPS)]
            count = min(ROUND, packets - start)
            found = run_tool(
                lab.loaded, "nat", lab.v4, frames, packets=count, seed=seed + number, scratch=Path(scratch), more=more
            )
            total += found.counted(drops(lab.loaded) - before)
    return total
