"""LoadBalancers in mode NAT, live: backends of either family that know nothing of the virtual address."""

from __future__ import annotations

import json
import socket
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab.balance import BALANCER, CLIENT, VIP4, VIP6, address
from e2e.lab.run import LabRun
from e2e.lab.sixgate import ROOT
from tests.netns.test_lb_live import BACKENDS, CHECK, Site, open_line, open_lines, say, vip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAIRS = pytest.mark.parametrize(("family", "behind"), [(4, 4), (6, 6), (4, 6), (6, 4)])
NAT = {"forwarding": {"mode": "NAT"}}
SO_NO_CHECK = 11
EXPERIMENT = 253  # RFC 3692


def backends(behind: int, **more: dict[str, Any]) -> list[dict[str, Any]]:
    """All backends by addresses of one family; `more` by role."""
    return [{"address": address(role, behind), **more.get(role, {})} for role in BACKENDS]


@pytest.fixture
def site() -> Iterator[Site]:
    with LabRun() as lab:
        made = Site(lab)
        for role in BACKENDS:
            lab.ip(role, f"addr del {VIP4}/32 dev lo", f"addr del {VIP6}/128 dev lo")
            made.net.serve(role)
        yield made


@PAIRS
def test_backends_of_either_family_need_nothing(site: Site, family: int, behind: int) -> None:
    site.put(family, backends=backends(behind), **NAT)
    assert site.net.everyone(vip(family)) == set(BACKENDS)


def test_a_backend_sees_the_balancer_and_the_mapped_port(site: Site) -> None:
    site.put(ports=[{"port": 80, "targetPort": 8080}, {"port": 8000, "endPort": 8009, "targetPort": 9000}], **NAT)
    lab = site.net.lab
    for role in BACKENDS:
        site.net.serve(role, 8080)
        site.net.serve(role, 9003)
    assert site.net.everyone() == set(BACKENDS)
    assert site.net.everyone(port=8003) == set(BACKENDS)
    assert site.net.ask(port=81, timeout_s=1) == ""
    line = open_line(site)
    try:
        name = say(line).split()[0]
        (peer,) = lab.run(name, ["ss", "-Htn", "state", "established", "sport = :8080"]).stdout.splitlines()
        assert f"[::ffff:{address(BALANCER, 4)}]" in peer.split()[3]
        (row,) = json.loads(site.sixgate.command(["nat", "list", "--state", "est", "-o", "json"]).stdout)
        assert (row["service"], row["remotePort"]) == (f"LoadBalancer/web {VIP4} TCP 80", 8080)
        assert (row["client"], row["remote"]) == (address(CLIENT, 4), address(name, 4))
        flows = json.loads(site.sixgate.command(["lb", "flows", "web", "-o", "json"]).stdout)
        known = [flow for flow in flows if flow["client"] == f"{row['client']}:{row['clientPort']}"]
        assert [(flow["vip"], flow["backend"]) for flow in known] == [(f"{VIP4}:80", address(name, 4))]
    finally:
        line.kill()
        line.wait()


def test_backends_of_both_families_and_weights(site: Site) -> None:
    mixed = [{"address": address("b1", 4), "weight": 3}, {"address": address("b2", 6)}]
    site.put(vips=[VIP4, VIP6], backends=mixed, **NAT)
    for family in (4, 6):
        told = Counter(site.net.answers(120, vip(family)))
        assert set(told) == {"b1", "b2"}
        assert told["b1"] > told["b2"], told
    words = ["nat", "list", "--object", "LoadBalancer/web", "--by", "object", "-o", "json"]
    counted = {row["object"] for row in json.loads(site.sixgate.command(words).stdout)}
    assert counted == {"LoadBalancer/web/4", "LoadBalancer/web/6"}
    assert site.net.lab.run(CLIENT, ["ping", "-c1", "-W20", VIP4]).returncode == 0


@pytest.mark.parametrize(
    ("family", "behind", "acceleration"), [(4, 6, "Disabled"), (4, 4, "BestEffort"), (6, 6, "BestEffort")]
)
def test_connections_survive_maintenance_kill_and_removal_until_the_deadline(
    site: Site, family: int, behind: int, acceleration: str
) -> None:
    put = partial(site.put, family, **NAT, acceleration=acceleration)
    put(backends=backends(behind), drainSeconds=600)
    lines, before = open_lines(site, family)
    try:
        put(backends=backends(behind, b1={"maintenance": True}), drainSeconds=600)
        assert "b1" not in site.net.answers(20, vip(family))
        assert [say(line) for line in lines] == [f"{name} 2" for name in before]
        site.sixgate.kill()
        assert [say(line) for line in lines] == [f"{name} 3" for name in before]
        site.sixgate.start()
        site.sixgate.wait_ready()
        put(backends=[{"address": address("b3", behind)}], drainSeconds=600)
        assert set(site.net.answers(10, vip(family))) == {"b3"}
        assert [say(line) for line in lines] == [f"{name} 4" for name in before]
        put(backends=[{"address": address("b2", behind)}], drainSeconds=0)
        kept = [say(line) for line in lines]
        assert all((told == f"{name} 5") is (name == "b2") for told, name in zip(kept, before, strict=True)), kept
    finally:
        for line in lines:
            line.kill()
            line.wait()


@pytest.mark.parametrize(("family", "behind"), [(4, 6), (4, 4), (6, 6)])
def test_a_backend_that_does_not_answer_is_quarantined_and_comes_back(site: Site, family: int, behind: int) -> None:
    site.put(family, backends=backends(behind), healthCheck=CHECK, **NAT)
    assert site.net.everyone(vip(family)) == set(BACKENDS)
    site.net.stop("b2")
    site.wait(lambda: site.report()["quarantined"] == 1, "b2 is not quarantined")
    assert site.net.everyone(vip(family), but=["b2"]) == {"b1", "b3"}
    shown = json.loads(site.sixgate.command(["lb", "show", "web", "-o", "json"]).stdout)
    assert {each["mode"] for each in shown["backends"]} == {"NAT"}
    site.net.serve("b2")
    site.wait(lambda: site.report()["active"] == 3, "b2 does not come back")
    assert site.net.everyone(vip(family)) == set(BACKENDS)


@pytest.mark.parametrize("policy", ["Open", "Closed"])
def test_what_happens_when_no_backend_answers(site: Site, policy: str) -> None:
    failing = {**CHECK, "path": "/nothing", "statusCodes": [404], "whenAllFail": policy}
    site.put(healthCheck=failing, **NAT)
    site.wait(lambda: site.report()["quarantined"] == 3, "not all are quarantined")
    told = site.net.everyone() if policy == "Open" else set(site.net.answers(6, timeout_s=1))
    assert told == (set(BACKENDS) if policy == "Open" else {""})


def test_sources_ports_and_rates_are_refused_and_counted(site: Site) -> None:
    site.put(sourceRanges={"deny": [f"{address(CLIENT, 4)}/32"]}, **NAT)
    assert site.net.ask(timeout_s=1) == ""
    site.put(newFlowsPerSecond=1, ports=[{"port": 80}, {"port": 53, "protocol": "UDP"}], **NAT)
    assert site.net.ask() in BACKENDS
    for _ in range(200):  # UDP too: every flow is a session
        with udp_client(site, 4, 53) as client:
            client.send(b"question")
    drops = json.loads(site.sixgate.command(["lb", "show", "web", "-o", "json"]).stdout)["vips"][0]["drops"]
    assert drops["LB_SOURCE"] >= 1
    assert drops["LB_RATE"] >= 1


def test_counters_of_vips_and_backends(site: Site) -> None:
    site.put(acceleration="BestEffort", sourceRanges={"deny": ["198.51.100.0/24"]}, **NAT)
    assert "" not in site.net.answers(30)
    shown = json.loads(site.sixgate.command(["lb", "show", "web", "-o", "json"]).stdout)
    assert shown["total"]["flows"] == sum(backend["counted"]["flows"] for backend in shown["backends"]) == 30
    assert shown["total"]["packets"] == sum(backend["counted"]["packets"] for backend in shown["backends"]) >= 30 * 5


def udp_client(site: Site, family: int, port: int) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(20)
        made.connect((vip(family), port))
        return made

    return site.net.lab.call(CLIENT, make)


def udp_answers_and_error(site: Site, client: socket.socket, behind: int) -> list[Any]:
    """A small and a large datagram to b1, each answered, then one after b1's socket is closed, which is refused; whom
    b1 took for the client."""
    peers = []

    def serve() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if behind == 6 else socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(20)
        made.bind((address("b1", behind), 5353))
        return made

    with site.net.lab.call("b1", serve) as server:
        for data in (b"question", bytes(4000)):
            client.send(data)
            got, peer = server.recvfrom(9000)
            assert got == data
            peers.append(peer)
            server.sendto(got[::-1], peer)
            assert client.recv(9000) == data[::-1]
    client.send(b"anybody?")
    with pytest.raises(ConnectionRefusedError):
        client.recv(100)
    return peers


@PAIRS
def test_udp_and_errors_come_back_from_the_virtual_address(site: Site, family: int, behind: int) -> None:
    """A connected socket takes nothing from anybody else; an error names the packet as the client sent it."""
    port = {"port": 53, "protocol": "UDP", "targetPort": 5353}
    site.put(family, ports=[port], backends=[{"address": address("b1", behind)}], **NAT)

    with udp_client(site, family, 53) as client:
        peers = udp_answers_and_error(site, client, behind)
    assert {peer[0] for peer in peers} == {address(BALANCER, behind)}


def test_trace_says_what_becomes_of_a_packet(site: Site) -> None:
    """A client that begins, one that has a session, and one that may not come."""
    site.put(sourceRanges={"deny": ["203.0.113.99/32"]}, backends=backends(6), **NAT)

    def told(source: str) -> Any:
        words = ["trace", "--from", source, "--to", f"{VIP4}:80", "--device", site.net.lab.device("up"), "-o", "json"]
        words += ["--objects", str(ROOT / "build" / "bpf")]
        return json.loads(site.sixgate.command(words, check=False).stdout)

    mine = f"{address(CLIENT, 4)}:4000"
    assert "begins a session" in json.dumps(told(mine))
    assert "SG_DROP_LB_SOURCE" in json.dumps(told("203.0.113.99:4000"))
    line = open_line(site)
    try:
        name = say(line).split()[0]
        (row,) = json.loads(site.sixgate.command(["nat", "list", "--state", "est", "-o", "json"]).stdout)
        found = json.dumps(told(f"{row['client']}:{row['clientPort']}"))
        assert f"has a mapping of {row['client']}" in found
        assert address(name, 6) in found
        assert "LoadBalancer/web" in found
    finally:
        line.kill()
        line.wait()


def test_a_node_without_an_address_that_could_be_a_source_says_so(site: Site) -> None:
    lab = site.net.lab
    lab.ip(BALANCER, f"addr del {address(BALANCER, 6)}/64 dev {lab.device('up')}")
    site.put(wait=False, backends=backends(6), **NAT)
    status = site.sixgate.state_dir / "status.json"

    def told() -> str:
        report = json.loads(status.read_text())["status"] if status.exists() else {"objects": []}
        return " ".join(item["message"] for item in report["objects"] if item["state"] == "Degraded")

    site.wait(lambda: "this node has no global IPv6 address that could be a source" in told(), "nobody says so")


def test_what_is_the_balancers_own_is_left_alone(site: Site) -> None:
    """Its address is a source of sessions, and still its own: for protocols without ports, packets without a checksum
    (as VXLAN sends them), and those with a TTL of 1 (as BGP)."""
    site.put(backends=backends(4), **NAT)
    assert site.net.everyone() == set(BACKENDS)
    to = address(BALANCER, 4)

    def sent(make: Callable[[], socket.socket]) -> socket.socket:
        return site.net.lab.call(CLIENT, make)

    def bare() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        return made

    def served() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(20)
        made.bind((to, 4789))
        return made

    def raw(protocol: int) -> Callable[[], socket.socket]:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
            made.settimeout(20)
            return made

        return make

    with site.net.lab.call(BALANCER, served) as server, sent(bare) as client:
        client.sendto(b"no checksum", (to, 4789))
        assert server.recv(100) == b"no checksum"
    with site.net.lab.call(BALANCER, raw(EXPERIMENT)) as server, sent(raw(EXPERIMENT)) as client:
        client.sendto(b"no ports", (to, 0))
        assert server.recv(100)[20:] == b"no ports"
