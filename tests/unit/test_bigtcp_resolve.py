"""Sizes of devices from policies and from what a node is: tables of both, no kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sixgate.api.nodeconfig import NodeConfigSpec
from sixgate.node import actions as act
from sixgate.node.diff import diff
from sixgate.node.model import (
    Device,
    Kernel,
    Observed,
    Pod,
    SizeKey,
    Sizes,
)
from sixgate.node.report import report
from sixgate.node.resolve import ObjectFile, resolve
from tests.unit.bigtcp_nodes import (
    BIG,
    BOTH,
    GLOBAL,
    HOST_END,
    LEGACY,
    LIVE,
    MORE,
    POD,
    TOP,
    device,
    message,
    node,
    sizes,
    spec,
)


@pytest.mark.parametrize(
    ("have", "items", "expected"),
    [
        pytest.param(node(device("eth0", 2)), [BOTH], {"eth0": (BIG, BIG, MORE, MORE)}, id="both families"),
        pytest.param(
            node(device("eth0", 2)), [{"ipv4Size": BIG}], {"eth0": (LEGACY, LEGACY, BIG, BIG)}, id="IPv4 only"
        ),
        pytest.param(
            node(device("eth0", 2, sizes=Sizes(70000, 70000, 80000, 80000))),
            [{"ipv6Size": LEGACY}],
            {"eth0": (LEGACY, LEGACY, 80000, 80000)},
            id="a family that is off goes to 64 KB, the other stays",
        ),
        pytest.param(
            node(device("eth0", 2, tso_max=100000)),
            [BOTH],
            {"eth0": (100000, 100000, 100000, 100000)},
            id="no more than the driver takes",
        ),
        pytest.param(
            node(device("eth0", 2, tso_max=LEGACY, kind="vxlan")),
            [BOTH],
            {"eth0": (LEGACY, LEGACY, LEGACY, LEGACY)},
            id="a tunnel that cannot",
        ),
        pytest.param(
            node(device("eth0", 2, kind="vxlan")),
            [BOTH],
            {"eth0": (LEGACY, LEGACY, LEGACY, LEGACY)},
            id="a tunnel that says it can, and was not seen to",
        ),
        pytest.param(
            replace(node(device("eth0", 2, kind="vxlan")), kernel=Kernel("9", tcx=True, tunnels_big=True)),
            [BOTH],
            {"eth0": (BIG, BIG, MORE, MORE)},
            id="a tunnel that was seen to work",
        ),
        pytest.param(
            node(device("eth0", 2, sizes=Sizes(LEGACY, LEGACY, 0, 0))),
            [BOTH],
            {"eth0": (BIG, BIG, 0, 0)},
            id="a kernel without IPv4 BIG TCP",
        ),
        pytest.param(
            node(device("eth0", 2), device("eth1", 3), device("lo", 1, loopback=True)),
            [{**BOTH, "include": ["*"], "exclude": ["eth1"]}],
            {"eth0": (BIG, BIG, MORE, MORE)},
            id="excluded, and loopback only by name",
        ),
        pytest.param(
            node(device("eth0", 2, addresses=GLOBAL), device("eth1", 3)),
            [{**BOTH, "include": ["auto"]}],
            {"eth0": (BIG, BIG, MORE, MORE)},
            id="auto is the uplinks",
        ),
        pytest.param(
            node(
                device("eth0", 2, master=4),
                device("eth1", 3, master=4),
                device("bond0", 4, kind="bond"),
                device("bond0.7", 5, kind="vlan", lower=4, addresses=GLOBAL),
                device("eth5", 6),
            ),
            [{**BOTH, "include": ["auto"], "exclude": ["eth1"]}],
            dict.fromkeys(("bond0.7", "bond0", "eth0"), (BIG, BIG, MORE, MORE)),
            id="auto takes along what carries an uplink",
        ),
        pytest.param(
            node(device("eth0", 2), device("eth1", 3)),
            [{"ipv6Size": MORE, "include": ["eth0"]}, BOTH],
            {"eth0": (MORE, MORE, MORE, MORE), "eth1": (BIG, BIG, MORE, MORE)},
            id="the first that names a family of a device counts",
        ),
        pytest.param(
            node(device("eth0", 2), device("veth7", 7, kind="veth", netnsid=0)),
            [{**BOTH, "pods": "HostSide"}],
            {"eth0": (BIG, BIG, MORE, MORE), "veth7": (BIG, BIG, MORE, MORE)},
            id="the node's ends of pod devices",
        ),
        pytest.param(
            node(device("eth0", 2), forwards6=frozenset({2})),
            [BOTH],
            {"eth0": (BIG, LEGACY, MORE, MORE)},
            id="what is forwarded is not merged beyond 64 KB",
        ),
        pytest.param(
            node(device("eth0", 2), device("eth0.7", 5, kind="vlan", lower=2), forwards6=frozenset({5})),
            [{**BOTH, "include": ["eth0"]}],
            {"eth0": (BIG, LEGACY, MORE, MORE)},
            id="a VLAN above that forwards",
        ),
        pytest.param(
            node(device("eth0", 2, master=4), device("br0", 4, kind="bridge"), forwards6=frozenset({2})),
            [BOTH],
            {"eth0": (BIG, BIG, MORE, MORE)},
            id="a port's own forwarding does not count, its bridge's does",
        ),
        pytest.param(
            node(
                device("eth0", 2, kind="veth", peer_ifindex=3, lower=3),
                device("x", 3, kind="veth", lower=2),
                forwards6=frozenset({3}),
            ),
            [BOTH],
            {"eth0": (LEGACY, BIG, MORE, MORE)},
            id="nothing big is sent to an end that forwards",
        ),
    ],
)
def test_sizes(have: Observed, items: list[dict[str, Any]], expected: dict[str, tuple[int, ...]]) -> None:
    assert sizes(have, *items) == expected


def test_live_sets_both_ends() -> None:
    have = node(HOST_END, pods=(POD,))
    assert sizes(have, LIVE) == {"veth7": (BIG, BIG, MORE, MORE), "cni-1/eth0": (BIG, BIG, MORE, MORE)}


def test_a_pod_sends_nothing_big_that_the_node_forwards() -> None:
    """What the node's end would have to forward is limited where it begins: in the pod."""
    have = node(HOST_END, pods=(POD,), forwards6=frozenset({7}))
    assert sizes(have, LIVE) == {"veth7": (BIG, LEGACY, MORE, MORE), "cni-1/eth0": (LEGACY, BIG, MORE, MORE)}


def test_a_kernel_that_was_seen_to_forward_them_is_trusted() -> None:
    have = node(HOST_END, pods=(POD,), forwards6=frozenset({7}))
    have = replace(have, kernel=replace(have.kernel, forwards_big6=True))
    assert set(sizes(have, LIVE).values()) == {(BIG, BIG, MORE, MORE)}


@pytest.mark.parametrize(
    ("have", "items", "says"),
    [
        (node(device("eth0", 2, tso_max=100000)), [BOTH], "eth0 gets 100000 bytes for IPv6 instead of 196608"),
        (
            node(device("eth0", 2, tso_max=65536, kind="ipip")),
            [BOTH],
            "eth0 stays without BIG TCP for IPv6: its driver",
        ),
        (
            node(device("eth0", 2, kind="vxlan")),
            [BOTH],
            "eth0 stays without BIG TCP for IPv6: this kernel is not known to",
        ),
        (node(), [{**BOTH, "include": ["eth0"]}], "Device eth0 should be set for BIG TCP, but this node has no such"),
        (node(), [BOTH], "No device of this node matches eth*."),
        (node(device("eth0", 2), forwards6=frozenset({2})), [BOTH], "eth0 merges IPv6 packets of at most 64 KB"),
        (node(device("eth0", 2, sizes=Sizes(65536, 65536, 0, 0))), [BOTH], "has no BIG TCP for IPv4: Linux 6.18 has"),
    ],
)
def test_sentences(have: Observed, items: list[dict[str, Any]], says: str) -> None:
    assert says in message(have, *items)


def test_a_thousand_devices_make_one_sentence() -> None:
    have = node(*(device(f"eth{n}", n + 2, tso_max=65536) for n in range(1000)))
    said = message(have, {"ipv6Size": BIG})
    assert said.startswith("eth0, eth1, eth2 and 997 more devices stays without BIG TCP")
    assert len(said) < 200


def test_live_without_the_capability_says_so() -> None:
    have = node(HOST_END)
    have = replace(have, kernel=replace(have.kernel, sys_admin=False))
    assert "needs CAP_SYS_ADMIN" in message(have, LIVE)
    assert list(sizes(have, LIVE)) == ["veth7"]


def actions(have: Observed, *items: dict[str, Any]) -> tuple[act.Action, ...]:
    return diff(resolve(spec(*items), have, {}), have)


def test_what_a_device_had_is_recorded_once_and_before() -> None:
    first = SizeKey("", 2, "eth0")
    have = node(device("eth0", 2), device("eth1", 3))
    done = actions(have, BOTH)
    assert [type(action) for action in done] == [act.RememberSizes, act.SetSizes, act.SetSizes]
    again = actions(replace(have, originals={first: Sizes()}), BOTH)
    assert [key for action in again if isinstance(action, act.RememberSizes) for key, _ in action.originals] == [
        SizeKey("", 3, "eth1")
    ]


def test_sizes_are_given_back_and_then_forgotten() -> None:
    key, was = SizeKey("", 2, "eth0"), Sizes(70000, 65536, 65536, 65536)
    changed = device("eth0", 2, sizes=Sizes(BIG, BIG, MORE, MORE))
    assert actions(node(changed, originals={key: was})) == (act.SetSizes(key=key, sizes=was),)
    restored = replace(changed, sizes=was)
    assert actions(node(restored, originals={key: was})) == (act.ForgetSizes(originals=((key, was),)),)
    assert actions(node(originals={key: was})) == (act.ForgetSizes(originals=((key, was),)),)
    assert actions(node(restored)) == ()


def test_a_device_made_anew_under_its_old_name_is_another_one() -> None:
    old = SizeKey("", 2, "eth0")
    done = actions(node(device("eth0", 9), originals={old: Sizes()}), BOTH)
    assert [type(action) for action in done] == [act.RememberSizes, act.SetSizes, act.ForgetSizes]


def test_a_family_that_is_no_longer_named_gets_its_own_size_back() -> None:
    key, was = SizeKey("", 2, "eth0"), Sizes(70000, 70000, 65536, 65536)
    have = node(device("eth0", 2, sizes=Sizes(BIG, BIG, MORE, MORE)), originals={key: was})
    assert actions(have, {"ipv4Size": MORE}) == (act.SetSizes(key=key, sizes=Sizes(70000, 70000, MORE, MORE)),)


def test_a_pod_that_cannot_be_looked_at_is_not_forgotten() -> None:
    key = SizeKey("/run/netns/cni-1", 2, "eth0")
    blind = node(originals={key: Sizes()})
    assert actions(replace(blind, kernel=replace(blind.kernel, sys_admin=False))) == ()
    assert actions(blind) == (act.ForgetSizes(originals=((key, Sizes()),)),)


def test_the_report_begins_with_what_falls_short() -> None:
    have = node(device("eth0", 2, sizes=Sizes(BIG, BIG, MORE, MORE)), device("eth1", 3, tso_max=65536))
    wanted = spec(BOTH)
    rows = report(wanted, resolve(wanted, have, {}), have, ()).big_tcp
    assert [(r.device, r.ipv6_wanted, r.ipv6_gso, bool(r.message)) for r in rows] == [
        ("eth1", BIG, LEGACY, True),
        ("eth0", BIG, BIG, False),
    ]


@pytest.mark.parametrize(("transport", "size"), [("VXLAN", LEGACY), ("Direct", BIG)])
def test_what_egress_puts_into_a_tunnel_stays_small(transport: str, size: int) -> None:
    """From the pod's end, and into the node's end; what the node sends to the pod may be large."""
    egress = {
        "owners": ["EgressGateway/e"],
        "name": "e",
        "stat": 1,
        "pods": [{"namespaces": [{"key": "team", "operator": "Exists"}]}],
        "destinations": ["203.0.113.0/24"],
        "transport": transport,
    }
    item = {
        "owners": ["EgressGateway/e"],
        "name": "sg_egress",
        "digest": "sha256:" + "0" * 64,
        "attachments": [{"program": "sg_pod_tc", "hook": "tc-ingress", "devices": ["veth1"]}],
    }
    policy = {"owners": ["BIGTCPPolicy/p"], "include": ["veth1"], "pods": "Live", "ipv6Size": BIG, "ipv4Size": BIG}
    wanted = NodeConfigSpec.model_validate(
        {"formatVersion": 1, "bigTcp": [policy], "egress": [egress], "objects": [item]}
    ).hashed()
    inside = Device("eth0", 2, tso_max=TOP, kind="veth", lower=7, up=True)
    have = node(
        device("veth1", 7, kind="veth", netnsid=3, lower=2, up=True),
        pods=(Pod("/run/netns/p", 3, {"eth0": inside}),),
    )
    files = {"sg_egress": ObjectFile("sg_egress", "", ("sg_pod_tc",), {}, None)}
    found = {str(w.key): w.sizes for w in resolve(wanted, have, files).sizes}
    assert found["veth1"] == Sizes(BIG, size, BIG, size)
    (end,) = (sizes for name, sizes in found.items() if name != "veth1")
    assert end == Sizes(size, BIG, size, BIG)
