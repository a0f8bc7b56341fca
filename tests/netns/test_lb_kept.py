"""Mode NAT with preserveClientIP, live: backends see the client, and answer by way of the balancer."""

from __future__ import annotations

import json
import re
import socket
from typing import TYPE_CHECKING, Any

from e2e.lab.balance import BALANCER, CLIENT, address
from e2e.lab.sixgate import ROOT
from tests.netns.test_lb_live import BACKENDS, VIPS, Site, open_line, open_lines, say, vip
from tests.netns.test_lb_nat import backends, site, udp_answers_and_error, udp_client

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["site"]  # a fixture
KEPT = {"forwarding": {"mode": "NAT", "nat": {"preserveClientIP": True}}}


def by_way_of_the_balancer(site: Site, roles: Sequence[str] = BACKENDS) -> None:
    """Backends' routes to the client, who is on their segment."""
    for role in roles:
        for family, length in ((4, 32), (6, 128)):
            via = address(BALANCER, family)
            site.net.lab.ip(role, f"route add {address(CLIENT, family)}/{length} via {via}")


def end(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def sessions(site: Site, *more: str) -> list[dict[str, Any]]:
    found = json.loads(site.sixgate.command(["nat", "list", "--object", "web", *more, "-o", "json"]).stdout)
    return list(found)


@VIPS
def test_backends_see_the_client_and_its_port(site: Site, family: int) -> None:
    by_way_of_the_balancer(site)
    for role in BACKENDS:
        site.net.serve(role, 8080)
    site.put(family, ports=[{"port": 80, "targetPort": 8080}], backends=backends(family), **KEPT)
    assert site.net.everyone(vip(family)) == set(BACKENDS)
    line = open_line(site, family)
    try:
        name = say(line).split()[0]
        peers = site.net.lab.run(name, ["ss", "-Htn", "state", "established", "sport = :8080"]).stdout
        (peer,) = (row.split()[3] for row in peers.splitlines())
        (row,) = sessions(site, "--state", "est")
        assert row["client"] == row["pool"] == address(CLIENT, family)
        assert row["clientPort"] == row["poolPort"]
        words = ["trace", "--from", end(address(name, family), 8080), "--to", end(row["client"], row["clientPort"])]
        words += ["--device", site.net.lab.device("up"), "--objects", str(ROOT / "build" / "bpf"), "-o", "json"]
        told = site.sixgate.command(words, check=False).stdout
        assert f"has a mapping of {end(row['client'], row['clientPort'])}" in told
        assert re.sub(r"[\[\]]|::ffff:", "", peer) == f"{address(CLIENT, family)}:{row['clientPort']}"
    finally:
        line.kill()
        line.wait()


def test_connections_survive_removal_and_kill(site: Site) -> None:
    by_way_of_the_balancer(site)
    drain = {"drainSeconds": 600}
    site.put(backends=backends(4), **KEPT, **drain)
    lines, before = open_lines(site)
    try:
        site.sixgate.kill()
        assert [say(line) for line in lines] == [f"{name} 2" for name in before]
        site.sixgate.start()
        site.sixgate.wait_ready()
        site.put(backends=[{"address": address("b3", 4)}], **KEPT, **drain)
        assert set(site.net.answers(10)) == {"b3"}
        assert [say(line) for line in lines] == [f"{name} 3" for name in before]
    finally:
        for line in lines:
            line.kill()
            line.wait()


@VIPS
def test_udp_large_ones_and_errors_come_back_from_the_virtual_address(site: Site, family: int) -> None:
    by_way_of_the_balancer(site, ["b1"])
    port = {"port": 53, "protocol": "UDP", "targetPort": 5353}
    site.put(family, ports=[port], backends=[{"address": address("b1", family)}], **KEPT)

    with udp_client(site, family, 53) as client:
        peers = udp_answers_and_error(site, client, family)
        assert {peer[:2] for peer in peers} == {client.getsockname()[:2]}


def test_two_addresses_of_the_balancer_share_ports_of_a_backend(site: Site) -> None:
    """One source port to two virtual ports that lead to one port of one backend: a port must differ, and does."""
    by_way_of_the_balancer(site, ["b1"])
    ports = [{"port": 80}, {"port": 81, "targetPort": 80}]
    site.put(ports=ports, backends=[{"address": address("b1", 4)}], **KEPT)

    def open_from_one_port(to: int) -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.settimeout(20)
        made.bind(("", 4444))
        made.connect((vip(4), to))
        return made

    opened = [site.net.lab.call(CLIENT, lambda to=to: open_from_one_port(to)) for to in (80, 81)]
    try:
        for each in opened:
            each.sendall(b"x\n")
            assert each.recv(100).startswith(b"b1")
        rows = sessions(site, "--state", "est")
        assert {row["clientPort"] for row in rows} == {4444}
        taken = {row["poolPort"] for row in rows}
        assert len(rows) == len(taken) == 2
        assert 4444 in taken
    finally:
        for each in opened:
            each.close()


def test_what_a_backend_does_by_itself_goes_its_way(site: Site) -> None:
    """It has a session with the client, and its own connections to the client are forwarded as they are."""
    by_way_of_the_balancer(site, ["b1"])
    site.put(backends=[{"address": address("b1", 4)}], **KEPT)
    line = open_line(site)
    try:
        assert say(line).split()[0] == "b1"
        (row,) = sessions(site, "--state", "est")

        def serve() -> socket.socket:
            made = socket.create_server(("", 0))
            made.settimeout(20)
            return made

        with site.net.lab.call(CLIENT, serve) as listener:
            to = (address(CLIENT, 4), listener.getsockname()[1])
            with site.net.lab.call("b1", lambda: socket.create_connection(to, timeout=20)):
                accepted, peer = listener.accept()
                accepted.close()
                assert peer[0] == address("b1", 4)
        assert row["remote"] == address("b1", 4)
        assert say(line) == "b1 2"
    finally:
        line.kill()
        line.wait()
