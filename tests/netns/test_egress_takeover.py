"""A gateway dies, and the connections through it live on at the one that had copies of them."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.lab.egress import SERVER, SERVER4, SOURCE4, EgressLab, egress_gateway
from e2e.lab.egress_records import DATAGRAMS, ENDED, record
from e2e.lab.run import LabRun
from sixgate.errors import BpfError
from sixgate.node.bpf.layouts import MAPS
from sixgate.node.bpf.map import Map
from sixgate.node.egress.copytables import CopyTables, Put
from sixgate.node.egress.copywire import MAX_RECORDS
from tests.netns.egress_ends import Ends, missing


@pytest.fixture(scope="module")
def lab() -> Iterator[EgressLab]:
    with LabRun() as run:
        made = EgressLab(run)
        nat = {"maxSessions": 65536, "clientLimits": {"sessions": 60000}}
        made.objects = {"payments": egress_gateway(nat=nat, failover={"drainSeconds": 1})}
        made.add_node("n1")
        made.add_node("g1", gateway=True)
        made.add_node("g2", gateway=True)
        made.add_pod("pay", "n1")
        made.start()
        made.wait_pods("n1", 1)
        made.wait_settled()
        yield made


@pytest.fixture
def ends(lab: EgressLab) -> Iterator[Ends]:
    """Cables are put back, and the pair is where it belongs, before the next test."""
    made = Ends(lab)
    try:
        yield made
    finally:
        made.close()
        for gateway in lab.gateways:
            lab.cut(gateway, up=True)
        lab.wait_settled()


def copies(lab: EgressLab) -> tuple[int, int, str]:
    """Sessions of the owner, those that its standby has, and why it has none."""
    owner = lab.owner("n1")
    rows = [row for row in lab.reports(owner) if row["here"]] if owner else []
    return (rows[0]["sessions"], rows[0]["copies"], rows[0]["uncopied"]) if rows else (0, 0, "nobody owns it")


def wait_copied(lab: EgressLab, ends: Ends) -> str:
    """Until the standby has every connection of the test, established; the owner."""
    owner = lab.wait_copied()
    standby = next(iter(lab.gateways - {owner}))
    lab.wait(
        lambda: not missing(ends, standby),
        lambda: f"{standby} has no copies of {missing(ends, standby)}\n{lab.tail(owner)}",
    )
    return owner


def asleep(lab: EgressLab, node: str) -> bool:
    """Whether the engine answers for none of the pair's objects there."""
    bpffs = Path(lab.directories(node)[1])
    tables = CopyTables(bpffs)
    try:
        tables.open()
        numbers = tables.objects(lab.reports(node)[0]["pair"]).values()
        with Map.from_pin(bpffs / "maps" / "sg_st_use", spec=MAPS["sg_st_use"]) as use:
            found = [use.get(number) for number in numbers]
    finally:
        tables.close()
    return bool(found) and all(isinstance(row, dict) and row["asleep"] for row in found)


def resets(lab: EgressLab) -> int:
    return lab.resets("pay", SERVER)


def test_established_connections_outlive_their_gateway(lab: EgressLab, ends: Ends) -> None:
    lab.wait_settled()
    ends.open(300)
    owner = wait_copied(lab, ends)
    before = resets(lab)
    lab.cut_off(owner)
    ends.talk()
    ends.talk()
    assert resets(lab) == before
    # And when the dead one is back: a planned move, with what it had before it died in its tables.
    lab.cut(owner, up=True)
    lab.wait(lambda: lab.owner("n1") == owner, lambda: f"it does not come back\n{lab.tail(owner)}")
    ends.talk()
    assert resets(lab) == before


def test_a_standby_that_was_restarted_has_everything_again(lab: EgressLab, ends: Ends) -> None:
    owner = lab.wait_settled()
    ends.open(60)
    standby = next(iter(lab.gateways - {owner}))
    lab.kill(standby)
    lab.wait(lambda: copies(lab)[2] != "", lambda: f"nobody misses {standby}: {copies(lab)}\n{lab.tail(owner)}")
    ends.open(60)
    lab.command(standby, ["down"])
    lab.start(standby)
    assert wait_copied(lab, ends) == owner
    before = resets(lab)
    lab.cut_off(owner)
    ends.talk()
    assert resets(lab) == before


def test_a_standby_answers_for_nothing_that_it_has_copies_of(lab: EgressLab, ends: Ends) -> None:
    """A neighbour that sends to the standby by mistake: no packet gets through, and none is refused aloud."""
    lab.wait_settled()
    ends.open(2)
    owner = wait_copied(lab, ends)
    standby = next(iter(lab.gateways - {owner}))
    device = lab.lab.device("up")
    shown = {}
    for node in (owner, standby):
        (link,) = json.loads(lab.lab.run(node, ["ip", "-j", "link", "show", device]).stdout)
        shown[node] = link["address"]
    lab.wait(lambda: "draining" not in lab.command(standby, ["egress", "list"]).stdout, f"{standby} drains for ever")
    lab.wait(lambda: asleep(lab, standby), f"what {standby} has copies of does not sleep")
    before, dropped = resets(lab), lab.drops(standby, "SG_DROP_ST_NO_STATE")
    lab.lab.ip(SERVER, f"neigh replace {SOURCE4} lladdr {shown[standby]} dev {device}")
    try:
        ends.theirs[0].sendall(b"y")
        ends.mine[0].settimeout(0.5)
        with pytest.raises(TimeoutError):
            ends.mine[0].recv(1)
        assert lab.drops(standby, "SG_DROP_ST_NO_STATE") > dropped
    finally:
        lab.lab.ip(SERVER, f"neigh replace {SOURCE4} lladdr {shown[owner]} dev {device} nud reachable")
    ends.mine[0].settimeout(20)
    assert ends.mine[0].recv(1) == b"y"
    assert resets(lab) == before


def test_connections_that_have_ended_leave_the_standby(lab: EgressLab, ends: Ends) -> None:
    lab.wait_settled()
    ends.open(40)
    owner = wait_copied(lab, ends)
    standby = next(iter(lab.gateways - {owner}))

    def there() -> int:
        return lab.command(standby, ["egress", "flows", "payments", "-o", "json"]).stdout.count('"tcp"')

    assert there() >= 40
    lab.command(owner, ["nat", "flush", "--all"])
    lab.wait(lambda: there() == 0, lambda: f"{there()} are still there\n{lab.tail(standby)}")


def test_a_pair_with_one_gateway_alive_says_that_nothing_is_copied(lab: EgressLab, ends: Ends) -> None:
    del ends
    owner = lab.wait_settled()
    lab.wait(lambda: copies(lab)[2] == "", lambda: f"{copies(lab)}\n{lab.tail(owner)}")
    standby = next(iter(lab.gateways - {owner}))
    with contextlib.ExitStack() as stack:
        stack.callback(lab.cut, standby, up=True)
        lab.cut(standby)
        lab.wait(lambda: copies(lab)[2] == "No other gateway is alive.", lambda: f"{copies(lab)}\n{lab.tail(owner)}")
    lab.wait(lambda: copies(lab)[2] == "", lambda: f"{copies(lab)}\n{lab.tail(owner)}")
    assert standby in lab.command(owner, ["egress", "list"]).stdout


def ask(mine: socket.socket, theirs: socket.socket) -> int:
    """A question and its answer; the port that the server saw. What is lost is asked again."""
    for end in (mine, theirs):
        end.settimeout(1)
    for _ in range(20):
        with contextlib.suppress(TimeoutError):
            mine.send(b"?")
            peer = theirs.recvfrom(16)[1]
            theirs.sendto(b"!", peer)
            assert mine.recv(16) == b"!"
            return int(peer[1])
    raise TimeoutError("nobody answers")


def datagram_ports(lab: EgressLab, node: str) -> set[int]:
    told = lab.command(node, ["egress", "flows", "payments", "--limit", "10000", "-o", "json"]).stdout
    return {row["pool_port"] for row in json.loads(told) if row["protocol"] == "udp"}


def test_datagrams_are_copied_once_they_are_a_conversation(lab: EgressLab, ends: Ends) -> None:
    """A question with its answer is over before anybody could copy it, and is not."""
    del ends
    lab.wait_settled()
    owner = lab.wait_copied()
    standby = next(iter(lab.gateways - {owner}))

    def listen() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((SERVER4, 0))
        return made

    def speak() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.connect((SERVER4, theirs.getsockname()[1]))
        return made

    with contextlib.ExitStack() as stack:
        theirs = stack.enter_context(lab.lab.call(SERVER, listen))
        asks, talks = (stack.enter_context(lab.lab.call("pay", speak)) for _ in range(2))
        once = ask(asks, theirs)
        ports = {ask(talks, theirs) for _ in range(6)}
        assert len(ports) == 1
        lab.wait(lambda: ports <= datagram_ports(lab, standby), lambda: f"{standby} has none\n{lab.tail(owner)}")
        assert once not in datagram_ports(lab, standby)
        lab.cut_off(owner)
        assert {ask(talks, theirs) for _ in range(3)} == ports


def client(lab: EgressLab, node: str, obj: int, address: str = "10.99.0.1") -> tuple[int, int]:
    """Sessions and ports that a client has at a gateway, as its limits are compared with."""
    path = Path(lab.directories(node)[1]) / "maps" / "sg_st_client"
    with Map.from_pin(path, spec=MAPS["sg_st_client"]) as clients:
        found = clients.get({"addr": address, "obj": obj, "pad": 0, "pad2": 0})
    return (int(str(found["sessions"])), int(str(found["ports"]))) if isinstance(found, dict) else (0, 0)


def test_records_that_cannot_be_make_no_session(lab: EgressLab, ends: Ends) -> None:
    """Put by hand, while the standby's agent is away: so nobody else does."""
    del ends
    owner = lab.wait_settled()
    standby = next(iter(lab.gateways - {owner}))
    pair = lab.reports(owner)[0]["pair"]
    lab.kill(standby)
    tables = CopyTables(Path(lab.directories(standby)[1]))
    try:
        tables.open()
        obj = tables.objects(pair)[4]
        before = tables.sessions([obj])
        assert tables.put(record(obj)) == Put(good=1)
        assert tables.put(record(obj) * 2) == Put(good=2)  # it is there already
        assert tables.sessions([obj]) == before + 1
        assert client(lab, standby, obj) == (1, 1)
        bad = {
            "another pod with its port": ({"near": "10.99.0.2"}, Put(taken=1)),
            "the pod's port with another of ours": ({"to_port": 40001}, Put(taken=1)),
            "an address that is none of ours": ({"near_port": 5001, "to": "198.51.100.78"}, Put(taken=1)),
            "two families": ({"near": "2001:db8::1"}, Put(broken=1)),
            "no port": ({"near_port": 5001, "to_port": 0}, Put(broken=1)),
            "a state of another protocol": ({"state": DATAGRAMS}, Put(broken=1)),
            "no state at all": ({"state": 77}, Put(broken=1)),
            "no protocol of ours": ({"proto": socket.IPPROTO_SCTP}, Put(broken=1)),
        }
        assert {what: tables.put(record(obj, **changed)) for what, (changed, _) in bad.items()} == {
            what: put for what, (_, put) in bad.items()
        }
        assert tables.put(record(250)) == Put(broken=1)
        assert tables.sessions([obj]) == before + 1
        assert client(lab, standby, obj) == (1, 1)
        elsewhere = "203.0.113.77"
        assert tables.put(record(obj, far=elsewhere)) == Put(good=1)
        assert client(lab, standby, obj) == (2, 1)
        assert tables.put(record(obj, far=elsewhere, state=ENDED)) == Put(good=1)
        assert client(lab, standby, obj) == (1, 1)
        assert tables.put(record(obj, to_port=40001, state=ENDED)) == Put(good=1)  # of another connection
        assert tables.sessions([obj]) == before + 1
        assert tables.put(record(obj, state=ENDED) * 2) == Put(good=2)
        assert tables.sessions([obj]) == before
        assert client(lab, standby, obj) == (0, 0)
        for count in (1, MAX_RECORDS + 1):
            with pytest.raises(BpfError):
                tables.put(record(obj) * count + b"x" * (count == 1))
    finally:
        tables.close()
        lab.start(standby)
