"""Pods leave through gateways with fixed addresses: nodes as namespaces, `sixgate standalone` on each."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from e2e.lab import traffic
from e2e.lab.egress import SERVER, SERVER4, SERVER6, SOURCE4, SOURCE6, EgressLab, egress_gateway
from e2e.lab.run import LabRun

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 9000
FAMILIES = pytest.mark.parametrize(("server", "source"), [(SERVER4, SOURCE4), (SERVER6, SOURCE6)], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def lab() -> Iterator[EgressLab]:
    """Two gateways, a node with a selected pod and one that is not, and pods behind a bridge."""
    with LabRun() as run:
        made = EgressLab(run)
        made.objects = {"payments": egress_gateway(nat={"maxSessions": 65536})}
        made.add_node("n1")
        made.add_node("n2")
        made.add_node("g1", gateway=True)
        made.add_node("g2", gateway=True)
        made.add_pod("pay", "n1")
        made.add_pod("plain", "n1", "other")
        made.add_pod("bridged", "n2", bridge=True)
        made.add_pod("ongw", "g1")
        made.start()
        for node in ("n1", "n2", "g1"):
            made.wait_pods(node, 1)
        made.wait_settled()
        yield made


def sources(lab: EgressLab, pod: str, server: str, *, count: int = 3, timeout: float = 30.0) -> set[str]:
    """Source addresses that the server sees of a pod's datagrams, which are sent again until one arrives."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET

    def listen() -> socket.socket:
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.bind((server, PORT))
        made.settimeout(0.5)
        return made

    def send() -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            for _ in range(count):
                sender.sendto(b"x", (server, PORT))

    seen: set[str] = set()
    end = time.monotonic() + timeout
    with lab.lab.call(SERVER, listen) as receiver:
        while not seen:
            lab.lab.call(pod, send)
            with contextlib.suppress(TimeoutError):
                for _ in range(count):
                    seen.add(receiver.recvfrom(64)[1][0])
            if time.monotonic() > end:
                break
    return seen


@FAMILIES
@pytest.mark.parametrize("pod", ["pay", "bridged", "ongw"])
def test_a_selected_pod_leaves_with_the_declared_address(lab: EgressLab, pod: str, server: str, source: str) -> None:
    assert sources(lab, pod, server) == {source}


@FAMILIES
def test_replies_come_back(lab: EgressLab, server: str, source: str) -> None:
    del source
    for pod in ("pay", "bridged", "ongw"):
        assert traffic.ping(lab.lab, pod, server, count=2).received == 2


def test_a_pod_that_is_not_selected_leaves_as_ever(lab: EgressLab) -> None:
    """The server has no way back to it, so what it sees is what the pod sent."""
    assert sources(lab, "plain", SERVER4) == {lab.pods["plain"].ipv4}


@FAMILIES
def test_an_address_of_another_pod_gets_nobody_out(lab: EgressLab, server: str, source: str) -> None:
    """The pod that is not selected takes the selected one's address, as anybody may inside a pod."""
    del source
    stolen = lab.pods["pay"].ipv6 if ":" in server else lab.pods["pay"].ipv4
    length = 128 if ":" in server else 32
    inside = lab.lab.device("eth0")
    sources(lab, "plain", server, timeout=0.5)  # it knows its neighbour
    before = lab.drops("n1", "SG_DROP_EGRESS_SPOOFED")
    lab.lab.ip("plain", f"addr add {stolen}/{length} dev {inside}" + (" nodad" if ":" in server else ""))
    try:

        def send() -> None:
            family = socket.AF_INET6 if ":" in server else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as sender:
                sender.bind((stolen, 0))
                for _ in range(200):
                    sender.sendto(b"x", (server, PORT))

        family = socket.AF_INET6 if ":" in server else socket.AF_INET

        def listen() -> socket.socket:
            made = socket.socket(family, socket.SOCK_DGRAM)
            made.bind((server, PORT))
            made.settimeout(0.5)
            return made

        with lab.lab.call(SERVER, listen) as receiver:
            lab.lab.call("plain", send)
            seen = set()
            with contextlib.suppress(TimeoutError):
                while True:
                    seen.add(receiver.recvfrom(64)[1][0])
    finally:
        lab.lab.ip("plain", f"addr del {stolen}/{length} dev {inside}")
    assert seen <= {lab.pods["plain"].ipv4, lab.pods["plain"].ipv6}  # late ones of before
    assert lab.drops("n1", "SG_DROP_EGRESS_SPOOFED") - before >= 200


@pytest.mark.parametrize("bridge", [False, True], ids=["routed", "bridge"])
def test_a_new_pod_never_leaves_with_its_own_address(lab: EgressLab, bridge: bool) -> None:
    """It sends from its first moment; what the node is told of it comes later."""
    node, role = ("n2", "newbridged") if bridge else ("n1", "newrouted")
    stop = threading.Event()
    seen: list[str] = []

    def listen() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((SERVER4, PORT))
        made.settimeout(0.2)
        return made

    def receive(receiver: socket.socket) -> None:
        while not stop.is_set():
            try:
                seen.append(receiver.recvfrom(64)[1][0])
            except TimeoutError:
                continue

    with lab.lab.call(SERVER, listen) as receiver:
        thread = threading.Thread(target=receive, args=(receiver,))
        thread.start()
        lab.add_pod(role, node, bridge=bridge, known=False)

        def flood(sender: socket.socket, count: int) -> None:
            for _ in range(count):
                with contextlib.suppress(OSError):  # no neighbour yet
                    sender.sendto(b"x", (SERVER4, PORT))
                time.sleep(0.001)

        with lab.lab.call(role, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            flood(sender, 700)
            lab.write()
            for _ in range(600):  # a minute, beside any load
                flood(sender, 100)
                if SOURCE4 in seen:
                    break
        stop.set()
        thread.join()
    assert set(seen) == {SOURCE4}


def test_the_command_line_says_why(lab: EgressLab) -> None:
    owner = lab.wait_settled()
    shown = json.loads(lab.command("n1", ["egress", "list", "-o", "json"]).stdout)
    assert [(row["object"], row["ipv4"], row["owner"]) for row in shown] == [("payments", SOURCE4, owner)]
    told = lab.command("n1", ["egress", "explain", "pay/pay", SERVER4]).stdout
    assert "EgressGateway/payments" in told
    assert SOURCE4 in told
    assert owner in told
    assert "no EgressGateway selects it" in lab.command("n1", ["egress", "explain", "other/plain", SERVER4]).stdout
    assert "as if egress were not there" in lab.command("n1", ["egress", "explain", "pay/pay", "192.0.2.1"]).stdout
    assert "dropped" in lab.command("n1", ["egress", "explain", "10.99.99.99", SERVER4]).stdout
    assert traffic.ping(lab.lab, "pay", SERVER4, count=1).received == 1
    flows = json.loads(lab.command(owner, ["egress", "flows", "payments", "--limit", "10000", "-o", "json"]).stdout)
    assert {"pool": SOURCE4, "remote": SERVER4}.items() <= next(f for f in flows if f["protocol"] == "icmp").items()


def test_large_packets_are_told_the_size_that_fits_and_connections_flow(lab: EgressLab) -> None:
    """1450 bytes inside the tunnel, 1500 outside: no black hole either way."""
    ping = lab.lab.run("pay", ["ping", "-c", "3", "-M", "do", "-s", "1472", "-W", "5", SERVER4], check=False)
    assert "mtu = 1450" in ping.stdout or "mtu=1450" in ping.stdout + ping.stderr
    with traffic.iperf_server(lab.lab, SERVER):
        assert traffic.iperf(lab.lab, "pay", SERVER4, seconds=2, reverse=True).bits_per_second > 0


def connect(lab: EgressLab, count: int) -> tuple[list[socket.socket], list[socket.socket]]:
    """Connections from the selected pod: its ends, and the server's."""

    def listen() -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((SERVER4, PORT + 1))
        made.listen(1024)
        return made

    def one() -> socket.socket:
        made = socket.socket()
        made.settimeout(20)
        made.connect((SERVER4, PORT + 1))
        return made

    with lab.lab.call(SERVER, listen) as listener:
        mine, theirs = [], []
        for _ in range(count):
            mine.append(lab.lab.call("pay", one))
            accepted, (address, _) = listener.accept()
            assert address == SOURCE4
            accepted.settimeout(20)
            theirs.append(accepted)
    return mine, theirs


def all_answer(mine: list[socket.socket], theirs: list[socket.socket]) -> None:
    """Every connection carries a byte both ways; an exception where one does not."""
    for ends, others in ((mine, theirs), (theirs, mine)):
        for end in ends:
            end.sendall(b"x")
        assert {other.recv(1) for other in others} == {b"x"}


def test_a_planned_move_breaks_no_connection(lab: EgressLab) -> None:
    mine, theirs = connect(lab, 100)
    try:
        old = lab.wait_settled()
        lab.cordoned = {old}
        lab.write()
        lab.wait(lambda: lab.owner("n1") not in ("", old), lambda: f"the pair stays at {old}\n{lab.tail(old)}")
        for _ in range(3):
            all_answer(mine, theirs)
            time.sleep(0.3)
        assert sources(lab, "pay", SERVER4) == {SOURCE4}
    finally:
        for end in (*mine, *theirs):
            end.close()
        lab.cordoned = set()
        lab.write()
        lab.wait_settled()


def test_a_node_that_is_a_gateway_no_more_breaks_no_connection(lab: EgressLab) -> None:
    mine, theirs = connect(lab, 50)
    old = lab.wait_settled()
    try:
        lab.gateways.discard(old)
        lab.write()
        lab.wait(lambda: lab.owner("n1") not in ("", old), lambda: f"the pair stays at {old}\n{lab.tail(old)}")
        for _ in range(3):
            all_answer(mine, theirs)
            time.sleep(0.3)
    finally:
        for end in (*mine, *theirs):
            end.close()
        # Its maps go when its connections have; a gateway again before that is killed halfway by the next test.
        lab.wait(lambda: not lab.pinned(old, "sg_work_tc"), lambda: f"{old} keeps its maps\n{lab.tail(old)}")
        lab.gateways.add(old)
        lab.write()
        lab.wait_settled()


def test_a_dead_agent_stops_nothing_and_its_successor_goes_on(lab: EgressLab) -> None:
    owner = lab.wait_settled()
    # Who owns the pair is known before the owner's neighbours know: an agent that dies between the two tells nobody.
    lab.wait(lambda: traffic.ping(lab.lab, "pay", SERVER4, count=2).received == 2, "no answers before anything died")
    epoch = next(row["epoch"] for row in lab.reports(owner) if row["ipv4"] == SOURCE4)
    lab.kill(owner)
    lab.kill("n1")
    for _ in range(10):
        assert traffic.ping(lab.lab, "pay", SERVER4, count=2).received == 2
        time.sleep(0.1)
    lab.start(owner, "n1")
    lab.wait_settled()
    assert lab.owner(owner) == owner
    assert next(row["epoch"] for row in lab.reports(owner) if row["ipv4"] == SOURCE4) == epoch


def test_a_gateway_that_is_cut_off_is_replaced_and_new_connections_work(lab: EgressLab) -> None:
    owner = lab.wait_settled()
    lab.cut(owner)
    try:
        lab.wait(lambda: lab.owner("n1") not in ("", owner), lambda: f"nobody takes over\n{lab.tail('n1')}")
        assert sources(lab, "pay", SERVER4) == {SOURCE4}
    finally:
        lab.cut(owner, up=True)
    lab.wait_settled()
    assert sources(lab, "pay", SERVER6) == {SOURCE6}


def test_an_address_that_was_there_already_is_adopted_and_left(lab: EgressLab) -> None:
    adopted = "198.51.100.88"
    device = lab.lab.device("up")
    lab.lab.ip("g2", f"addr add {adopted}/24 dev {device}")
    lab.objects["adopt"] = egress_gateway(
        "adopt",
        destinationCIDRs=["203.0.113.9/32"],
        addresses=[{"ipv4": adopted}],
        nat={"maxSessions": 65536},
    )
    try:
        lab.write()
        lab.wait(lambda: lab.owner("n1", adopted) == "g2", lambda: f"{lab.reports('n1')}\n{lab.tail('g2')}")
        lab.wait(lambda: sources(lab, "pay", SERVER4) == {adopted}, lambda: f"{lab.tail('n1')}")
    finally:
        del lab.objects["adopt"]
        lab.write()
    lab.wait(lambda: lab.owner("n1", adopted) == "", "the object is still there")
    shown = lab.lab.run("g2", ["ip", "-4", "addr", "show", "dev", device]).stdout
    assert f"{adopted}/24" in shown
    lab.lab.ip("g2", f"addr del {adopted}/24 dev {device}")


def test_an_address_that_another_machine_has_is_left_to_it_and_the_status_says_so(lab: EgressLab) -> None:
    taken = "198.51.100.89"
    device = lab.lab.device("up")
    lab.lab.ip(SERVER, f"addr add {taken}/32 dev {device}")
    lab.objects["taken"] = egress_gateway(
        "taken", destinationCIDRs=["203.0.113.9/32"], addresses=[{"ipv4": taken}], nat={"maxSessions": 65536}
    )

    def hindrances() -> set[str]:
        rows = [row for node in ("g1", "g2") for row in lab.reports(node)]
        return {row["hindrance"] for row in rows if row["ipv4"] == taken} - {""}

    try:
        lab.write()
        said = {"another machine on the segment answers for the address"}
        lab.wait(lambda: hindrances() == said, lambda: f"{hindrances()}\n{lab.tail('g1')}\n{lab.tail('g2')}")
        lab.lab.ip(SERVER, f"addr del {taken}/32 dev {device}")
        lab.wait(lambda: lab.owner("n1", taken) != "", lambda: f"{lab.reports('n1')}\n{lab.tail('g2')}")
        lab.wait(lambda: not hindrances(), lambda: f"{hindrances()}")
    finally:
        del lab.objects["taken"]
        lab.write()
    lab.wait(lambda: lab.owner("n1", taken) == "", "the object is still there")


def test_without_a_gateway_nothing_leaves(lab: EgressLab) -> None:
    lab.objects["payments"]["spec"]["nodeSelector"] = {"matchLabels": {"no": "such"}}
    try:
        lab.write()
        lab.wait(lambda: not lab.reports("n1") or lab.owner("n1") == "", lambda: str(lab.reports("n1")))
        lab.wait(lambda: sources(lab, "pay", SERVER4, timeout=0.5) == set(), "packets still leave")
    finally:
        lab.objects["payments"] = egress_gateway(nat={"maxSessions": 65536})
        lab.write()
    lab.wait_settled()
    lab.wait(lambda: sources(lab, "pay", SERVER4) == {SOURCE4}, lambda: lab.tail("n1"))


def test_an_object_that_is_deleted_and_made_anew_works(lab: EgressLab) -> None:
    """The agents live on, and the maps that they know of do not."""
    objects, lab.objects = lab.objects, {}
    try:
        lab.write()
        lab.wait(lambda: SOURCE4 not in sources(lab, "pay", SERVER4), lambda: f"it goes on\n{lab.tail('n1')}")
        for node in lab.nodes:
            lab.wait(
                lambda node=node: not lab.reports(node),
                lambda node=node: f"{node}: {lab.reports(node)}\n{lab.tail(node)}",
            )
    finally:
        lab.objects = objects
        lab.write()
    lab.wait_settled()
    lab.wait(lambda: sources(lab, "pay", SERVER4) == {SOURCE4}, lambda: lab.tail("n1"))
    lab.wait(lambda: sources(lab, "bridged", SERVER6) == {SOURCE6}, lambda: lab.tail("n2"))


def test_everything_goes_when_it_is_taken_down(lab: EgressLab) -> None:
    """The last test: it takes the node off."""
    lab.kill("n2")
    lab.command("n2", ["down"])
    assert "sg-egress0" not in lab.lab.run("n2", ["ip", "link"]).stdout
    owner = lab.wait_settled()
    lab.kill(owner)
    lab.command(owner, ["down"])
    assert SOURCE4 not in lab.lab.run(owner, ["ip", "addr"]).stdout
