"""What a pod is told whose packets may not leave: `Drop` refuses them, `Hold` discards them without a word."""

from __future__ import annotations

import errno
import json
import socket
from typing import TYPE_CHECKING

import pytest

from e2e.lab.egress import SERVER, SERVER4, SERVER6, SOURCE4, SOURCE6, EgressLab, egress_gateway, settled
from e2e.lab.run import LabRun

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 9100
REFUSALS = {errno.EHOSTUNREACH, errno.EACCES}  # what Linux makes of the two ICMP messages
FAMILIES = pytest.mark.parametrize("server", [SERVER4, SERVER6], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def lab() -> Iterator[EgressLab]:
    """A node and a gateway; to 203.0.113.0/24 new pods wait, elsewhere they are refused, and so without a gateway."""
    with LabRun() as run:
        yield settled(run, "g1")


def put(lab: EgressLab, **spec: object) -> None:
    """Replaces parts of the object, and waits until the pod's node has it."""
    wanted = egress_gateway(nat={"maxSessions": 65536}, **spec)
    if wanted == lab.objects["payments"]:
        return
    lab.objects["payments"] = wanted
    before = lab.status("n1")["status"]["appliedRevision"]
    lab.write()
    lab.wait(lambda: lab.status("n1")["status"]["appliedRevision"] != before, lambda: lab.tail("n1"))


def listener(lab: EgressLab, server: str) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((server, PORT))
        made.listen(8)
        made.settimeout(60)
        return made

    return lab.lab.call(SERVER, make)


def client(lab: EgressLab, pod: str, server: str) -> socket.socket:
    return lab.lab.call(pod, lambda: socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET))


def attempt(lab: EgressLab, pod: str, server: str, timeout: float) -> int:
    """Errno of a connection that fails, 0 of one that still waits after `timeout`; its success is an error."""
    with client(lab, pod, server) as made:
        made.settimeout(timeout)
        try:
            made.connect((server, PORT))
        except TimeoutError:
            return 0
        except OSError as error:
            return error.errno or -1
    raise AssertionError("it was connected")


def refused(lab: EgressLab, pod: str, server: str) -> bool:
    """Whether a connection is refused. An answer that comes while the socket is still sending its first SYN is noted
    and no more (tcp_v6_err); the one to the second SYN, a second later, ends it. Devices of pods get their program in
    a moment, and until then packets are discarded without a word."""
    return any(attempt(lab, pod, server, 4.0) in REFUSALS for _ in range(5))


@FAMILIES
def test_a_new_pod_is_refused_by_drop(lab: EgressLab, server: str) -> None:
    put(lab, newPods="Drop", noGateway="Hold")
    role = "new6" if ":" in server else "new4"
    lab.add_pod(role, "n1", known=False)
    with listener(lab, server):
        assert refused(lab, role, server)
    assert lab.drops("n1", "SG_DROP_EGRESS_UNKNOWN") > 0


@FAMILIES
def test_a_new_pod_waits_with_hold_and_gets_through_with_the_declared_address(lab: EgressLab, server: str) -> None:
    put(lab, newPods="Hold", noGateway="Drop")
    role = "held6" if ":" in server else "held4"
    lab.add_pod(role, "n1", known=False)
    with listener(lab, server) as listening, client(lab, role, server) as made:
        before = lab.drops("n1", "SG_DROP_EGRESS_UNKNOWN")
        made.setblocking(False)
        assert made.connect_ex((server, PORT)) == errno.EINPROGRESS
        lab.wait(lambda: lab.drops("n1", "SG_DROP_EGRESS_UNKNOWN") > before, "its SYN was not dropped")
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        lab.write()  # now the node is told of it
        accepted, (source, *_) = listening.accept()
        accepted.close()
    assert source == (SOURCE6 if ":" in server else SOURCE4)


@FAMILIES
@pytest.mark.parametrize("declared", ["Drop", "Hold"])
def test_without_a_gateway_pods_are_told_so_or_wait_as_declared(lab: EgressLab, server: str, declared: str) -> None:
    nobody = {"matchLabels": {"no": "such"}}
    put(lab, noGateway=declared, nodeSelector=nobody)
    try:
        with listener(lab, server):
            if declared == "Drop":
                lab.wait(lambda: attempt(lab, "pay", server, 4.0) in REFUSALS, "it is not refused")
            else:
                lab.wait(lambda: lab.owner("n1") == "", "there is an owner")
                # What the object says reaches the kernel a moment after the NodeConfig; then it stays so.
                lab.wait(lambda: attempt(lab, "pay", server, 3.0) == 0, "it is refused")
        assert lab.drops("n1", "SG_DROP_EGRESS_NO_GW") > 0
    finally:
        put(lab)
        lab.wait_settled()


def test_a_spoofed_packet_is_answered_to_nobody(lab: EgressLab) -> None:
    """Its source may be anybody's: an answer would be one more packet that nobody asked for."""
    put(lab)  # which refuses
    lab.spaces["spoof"] = {"team": "other"}
    lab.add_pod("liar", "n1", "spoof")
    lab.wait(lambda: lab.has_pod("n1", lab.pods["liar"].ipv4), "the node does not know it")
    stolen = lab.pods["pay"].ipv4
    before, answered = lab.drops("n1", "SG_DROP_EGRESS_SPOOFED"), lab.drops("n1", "SG_OK_ICMP_SENT")
    inside = lab.lab.device("eth0")
    lab.lab.ip("liar", f"addr add {stolen}/32 dev {inside}")

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((stolen, 0))
            for _ in range(50):
                sender.sendto(b"x", (SERVER4, PORT))

    lab.lab.call("liar", send)
    lab.wait(lambda: lab.drops("n1", "SG_DROP_EGRESS_SPOOFED") - before >= 49, "they were not dropped")
    assert lab.drops("n1", "SG_OK_ICMP_SENT") == answered


def test_explain_names_a_pod_that_is_not_there_and_one_without_a_policy(lab: EgressLab) -> None:
    lab.add_pod("bystander", "n1", "other")
    lab.wait(lambda: lab.has_pod("n1", lab.pods["bystander"].ipv4), "the node does not know it")
    report = lab.state("n1") / "egress.json"
    lab.wait(lambda: "other/bystander" in report.read_text(), "the node does not know its name")
    told = json.loads(lab.command("n1", ["egress", "explain", "other/bystander", SERVER4, "-o", "json"]).stdout)
    assert "no EgressGateway selects it" in told[0]
    unknown = lab.command("n1", ["egress", "explain", "pay/nobody", SERVER4], check=False)
    assert unknown.returncode != 0
    assert "pay/nobody should be an address, or NAMESPACE/NAME of a pod of this node" in unknown.stderr
    nonsense = lab.command("n1", ["egress", "explain", "pay/pay", "elsewhere"], check=False)
    assert nonsense.returncode != 0
    assert "elsewhere should be an address" in " ".join(nonsense.stderr.replace("│", " ").split())
    told = json.loads(lab.command("n1", ["egress", "explain", "pay/pay", SERVER6, "-o", "json"]).stdout)
    assert any(f"so the source is {SOURCE6}" in sentence for sentence in told)


def test_list_counts_the_connections_and_the_pods(lab: EgressLab) -> None:
    with listener(lab, SERVER4) as listening:
        ends = [client(lab, "pay", SERVER4) for _ in range(5)]
        for end in ends:
            end.settimeout(60)
            end.connect((SERVER4, PORT))
            ends = [*ends, listening.accept()[0]]
        (row,) = json.loads(lab.command("g1", ["egress", "list", "-o", "json"]).stdout)
        assert (row["object"], row["owner"], row["here"]) == ("payments", "g1", "owner")
        assert row["sessions"] >= 5
        (row,) = json.loads(lab.command("n1", ["egress", "list", "-o", "json"]).stdout)
        assert row["pods"] >= 1
        assert row["owner"] == "g1"
        flows = json.loads(lab.command("g1", ["egress", "flows", "payments", "-o", "json"]).stdout)
        assert sum(flow["state"] == "EST" and flow["remote_port"] == PORT for flow in flows) >= 5
        lab.wait(lambda: any(r["sessions"] >= 5 for r in lab.reports("g1")), lambda: str(lab.reports("g1")))
    for end in ends:
        end.close()
