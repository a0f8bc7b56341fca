"""A policy on a node that packets pass through: super-packets of more than 64 KB cross it whole, or are not made."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from bench.bigtcp_labs import BIG, LEGACY, POLICY, SizedLab
from e2e.lab import topology, traffic
from e2e.lab.run import LabRun
from e2e.lab.topology import CLIENT4, CLIENT6, SERVER4, SERVER6, Host
from tests.netns.streams import counters, moved, pump, random_data, start_gateway, tcp_connect, tcp_transfer
from tests.netns.taps import Tap, Tapped, of_protocol
from tests.rfc.wire import TCP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab.sixgate import Sixgate


@pytest.fixture(scope="module")
def gateway() -> Iterator[tuple[LabRun, Sixgate]]:
    """A gateway with a policy; the hosts are pods of it."""
    with LabRun() as lab:
        topology.build(lab)
        sixgate = start_gateway(lab)
        spec = {
            "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "gw-1"}},
            "ipv6": {"maxSize": BIG},
            "ipv4": {"maxSize": BIG},
            "devices": {"include": ["*"]},
            "pods": "Live",
        }
        (lab.workdir / "manifests" / "policy.yaml").write_text(json.dumps({**POLICY, "spec": spec}))
        for _ in range(1200):
            rows = json.loads((lab.workdir / "state" / "status.json").read_text())["status"]["bigTcp"]
            if rows and {row[f"ipv{f}{k}"] for row in rows for f in (4, 6) for k in ("Gso", "Gro")} == {BIG}:
                break
            time.sleep(0.05)
        else:
            pytest.fail(f"The gateway's devices do not get their sizes: {rows}")
        for sender, receiver in ((CLIENT6, SERVER4), (CLIENT4, SERVER6), (CLIENT6, SERVER6)):
            assert traffic.ping(lab, sender.role, _address(sender, receiver), count=2).received
        yield lab, sixgate


def _address(sender: Host, receiver: Host) -> str:
    return receiver.address if sender.family == receiver.family else receiver.seen_from(sender.family)


def _mean(packets: list[Tapped]) -> float:
    supers = [len(each.data) for each in packets if each.gso_size]
    return sum(supers) / len(supers)


@pytest.mark.parametrize(("sender", "receiver"), [(CLIENT4, SERVER6), (CLIENT6, SERVER4)], ids=["4 to 6", "6 to 4"])
def test_translated_super_packets_reach_a_pod_whole(
    gateway: tuple[LabRun, Sixgate], sender: Host, receiver: Host
) -> None:
    lab, sixgate = gateway
    data, expected = random_data(60_000_000)
    before = counters(sixgate)
    with Tap(lab, receiver.role, "up") as tap:
        assert tcp_transfer(lab, sender, receiver, data) == expected
        came = of_protocol(tap.packets(), TCP) if receiver.family == 4 else tap.packets()
    assert _mean(came) > 65_536
    assert "SLOW_REWRITE" not in moved(before, counters(sixgate)), "a super-packet was cut"
    if receiver.family == 6:
        largest = max(came, key=lambda each: len(each.data)).data
        assert largest[4:7] == b"\0\0\0"  # no length, next header 0
        assert largest[40:44] == bytes((TCP, 0, 0xC2, 4))
        assert int.from_bytes(largest[44:48], "big") == len(largest) - 40


def test_a_gateway_forwards_what_it_does_not_translate_whole(gateway: tuple[LabRun, Sixgate]) -> None:
    lab, sixgate = gateway
    data, expected = random_data(60_000_000)
    before = counters(sixgate)
    with Tap(lab, SERVER6.role, "up") as tap:
        with tcp_connect(lab, CLIENT6.role, SERVER6.role, SERVER6.address) as (near, far):
            assert pump(near, far, data) == expected
        came = tap.packets()
    assert _mean(came) > 65_536
    assert {each.data[7] for each in came if len(each.data) > 65_575} == {63}, "the hop limit is one less"
    assert moved(before, counters(sixgate))["OK_FORWARDED"] > 30_000


@pytest.fixture(scope="module")
def hop() -> Iterator[SizedLab]:
    with LabRun() as lab:
        yield SizedLab(lab, 1)


def _sent(hop: SizedLab, size_bytes: int = 30_000_000) -> list[Tapped]:
    """What arrives at `b` of a transfer, once its content was compared."""
    data, expected = random_data(size_bytes)
    with Tap(hop.lab, "b", "up") as tap:
        with tcp_connect(hop.lab, "a", "b", hop.to[6]) as (near, far):
            assert pump(near, far, data) == expected
        return tap.packets()


def _sizes(status: Any) -> set[int]:
    return {size for row in status.big_tcp for size in (row.ipv6_gso, row.ipv6_gro)}


def test_a_forwarding_node_with_only_a_policy_redirects_super_packets(hop: SizedLab) -> None:
    status = hop.apply(BIG)["r"]
    assert _sizes(status) == {BIG}
    assert {tuple(device.hooks) for device in status.devices} == {("tc-ingress",)}
    came = _sent(hop)
    assert _mean(came) > 65_536
    assert {each.data[7] for each in came if len(each.data) > 65_575} == {63}


def test_without_the_redirect_devices_stay_at_64_kb(hop: SizedLab) -> None:
    status = hop.apply(BIG, forwarding="Kernel")["r"]
    assert status.devices == ()
    assert {row.ipv6_gro for row in status.big_tcp} == {LEGACY}
    assert "spec.forwarding leaves it to the kernel" in status.objects[0].message
    hop.apply(BIG, forwarding="Kernel")  # the neighbours see that now
    assert max(len(each.data) for each in _sent(hop)) <= 65_575


def test_rules_of_netfilter_are_not_passed_by_unless_that_is_wanted(hop: SizedLab) -> None:
    lab = hop.lab
    lab.run("r", ["nft", "add table inet filter; add chain inet filter seen { type filter hook forward priority 0; }"])
    try:
        status = hop.apply(BIG)["r"]
        assert {row.ipv6_gro for row in status.big_tcp} == {LEGACY}
        assert "inet filter seen would not see redirected packets" in status.objects[0].message
        hop.apply(BIG)
        assert max(len(each.data) for each in _sent(hop)) <= 65_575
        assert _sizes(hop.apply(BIG, forwarding="Redirect")["r"]) == {BIG}
        hop.apply(BIG, forwarding="Redirect")
        assert _mean(_sent(hop)) > 65_536
    finally:
        lab.run("r", ["nft", "delete table inet filter"])
    assert _sizes(hop.apply(BIG)["r"]) == {BIG}


def test_a_way_out_that_cannot_take_them_keeps_the_node_at_64_kb(hop: SizedLab) -> None:
    status = hop.apply(BIG, devices={"include": ["*"], "exclude": [hop.lab.device("b")]})["r"]
    assert _sizes(status) == {BIG, LEGACY}
    assert f"packets may leave through {hop.lab.device('b')}, where no more than 64 KB" in status.objects[0].message


def test_segments_larger_than_the_next_mtu_are_the_kernels_business(hop: SizedLab) -> None:
    """It says Packet Too Big, and the connection goes on with smaller segments, redirected again."""
    hop.apply(BIG)
    hop.apply(BIG)
    device = hop.lab.device("b")
    hop.lab.ip("r", f"link set {device} mtu 1400")
    try:
        came = _sent(hop)
    finally:
        hop.lab.ip("r", f"link set {device} mtu 1500")
        hop.lab.run("a", ["ip", "-6", "route", "flush", "cache"])
    assert max(each.gso_size for each in came) <= 1400 - 60
    assert _mean(came) > 65_536


def test_what_is_not_for_this_way_is_left_to_the_kernel(hop: SizedLab) -> None:
    """A super-packet for the node itself arrives there, whole."""
    hop.apply(BIG)
    hop.apply(BIG)
    data, expected = random_data(30_000_000)
    with Tap(hop.lab, "r", "a") as tap:
        with tcp_connect(hop.lab, "a", "r", "fd00:b::9") as (near, far):
            assert pump(near, far, data) == expected
        assert _mean(tap.packets()) > 65_536
