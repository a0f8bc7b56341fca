"""Sizes of devices from policies and from what a node is: tables of both, no kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sixgate.api.nodeconfig import BpfObject, NodeConfigSpec
from sixgate.node import actions as act
from sixgate.node.bpf.layouts import SgBigFlag
from sixgate.node.diff import diff
from sixgate.node.findings import Findings
from sixgate.node.model import (
    AddressSeen,
    Attached,
    Desired,
    Device,
    Hook,
    Kernel,
    LinkPin,
    Observed,
    Pod,
    ProgPin,
    SizeKey,
    Sizes,
)
from sixgate.node.report import report
from sixgate.node.resolve import ObjectFile, resolve
from sixgate.node.resolve_bigtcp import choose, passages
from sixgate.node.resolve_passage import FORWARD, PEER

BIG, MORE, LEGACY = 196608, 131072, 65536
TOP = 524280
GLOBAL = (AddressSeen("2001:db8::1", 64),)


def device(name: str, ifindex: int, **more: Any) -> Device:
    return Device(name, ifindex, **{"tso_max": TOP, "kind": "", **more})


def node(*devices: Device, **more: Any) -> Observed:
    return Observed(Kernel("6.18", tcx=True, sys_admin=True), {d.name: d for d in devices}, **more)


def spec(*items: dict[str, Any]) -> NodeConfigSpec:
    whole = [{"owners": [f"BIGTCPPolicy/p{n}"], "include": ["eth*"], **item} for n, item in enumerate(items)]
    return NodeConfigSpec.model_validate({"formatVersion": 1, "bigTcp": whole}).hashed()


def sizes(have: Observed, *items: dict[str, Any]) -> dict[str, tuple[int, int, int, int]]:
    wants = resolve(spec(*items), have, {}).sizes
    return {str(w.key): (w.sizes.gso6, w.sizes.gro6, w.sizes.gso4, w.sizes.gro4) for w in wants}


def message(have: Observed, *items: dict[str, Any]) -> str:
    wanted = spec(*items)
    return " ".join(item.message for item in report(wanted, resolve(wanted, have, {}), have, ()).objects)


BOTH = {"ipv6Size": BIG, "ipv4Size": MORE}


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


POD = Pod("/run/netns/cni-1", 0, {"eth0": device("eth0", 2, kind="veth", lower=7, netnsid=0)})
HOST_END = device("veth7", 7, kind="veth", lower=2, netnsid=0)
LIVE = {**BOTH, "include": ["bond*"], "pods": "Live"}


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


OBJECT = {
    "owners": ["BIGTCPPolicy/p0"],
    "name": "sg_fwd",
    "digest": "sha256:" + "f" * 64,
    "attachments": [
        {"program": "sg_fwd_tc", "hook": "tc-ingress", "devices": ["@forwarding"], "superPackets": "Forwarded"}
    ],
}
FILE = ObjectFile("sg_fwd", str(OBJECT["digest"]), ("sg_fwd_tc",), {}, None)
ROUTER = (device("eth0", 2, addresses=GLOBAL), device("eth1", 3, addresses=GLOBAL))


def redirecting(have: Observed, *items: dict[str, Any]) -> Desired:
    document = spec(*items).model_copy(update={"objects": (BpfObject.model_validate(OBJECT),)})
    return resolve(document, have, {"sg_fwd": FILE})


def attached(want: Desired, have: Observed) -> Observed:
    """The node once the programs of `want` are where they are to be."""
    pins = {hook.prog: ProgPin(hook.prog, 77, ()) for hook in want.hooks}
    links = {hook.hook: LinkPin(hook.hook, 5, 77, hook.ifindex) for hook in want.hooks}
    return replace(have, programs=pins, links=links, attached={hook.hook: (Attached(77, 5),) for hook in want.hooks})


def test_sizes_of_a_router_grow_once_the_program_is_there() -> None:
    have = node(*ROUTER, forwards6=frozenset({2, 3}))
    first = redirecting(have, BOTH)
    assert [str(item.hook) for item in first.hooks] == ["tc-ingress on eth0", "tc-ingress on eth1"]
    assert {item.sizes.gro6 for item in first.sizes} == {LEGACY}
    second = redirecting(attached(first, have), BOTH)
    assert {item.sizes.gro6 for item in second.sizes} == {BIG}
    assert not any(item.why for item in second.sizes)


@pytest.mark.parametrize(
    ("have", "item", "says"),
    [
        pytest.param(node(*ROUTER), {"forwarding": "Kernel"}, "leaves it to the kernel", id="not wanted"),
        pytest.param(
            node(*ROUTER, rules6=("inet a b",)),
            {},
            "inet a b would not see redirected packets",
            id="rules of netfilter",
        ),
        pytest.param(
            node(*ROUTER, device("eth9", 9, tso_max=65536, addresses=GLOBAL)),
            {},
            "leave through eth9",
            id="a narrow exit",
        ),
        pytest.param(
            node(*ROUTER, device("vxlan0", 9, kind="vxlan", addresses=GLOBAL)),
            {},
            "leave through vxlan0, where no more than 64 KB",
            id="a tunnel among the ways out",
        ),
        pytest.param(
            node(device("eth0", 2, addresses=GLOBAL, ethernet=False), ROUTER[1]),
            {},
            "eth0 is no Ethernet device",
            id="no link header",
        ),
    ],
)
def test_what_is_not_redirected_stays_small_and_says_why(have: Observed, item: dict[str, Any], says: str) -> None:
    have = replace(have, forwards6=frozenset(d.ifindex for d in have.devices.values()))
    want = redirecting(have, {**BOTH, "include": ["eth0", "eth1"], **item})
    assert "tc-ingress on eth0" not in map(str, (hook.hook for hook in want.hooks))
    (first, *_) = want.sizes
    assert first.sizes.gro6 == LEGACY
    assert says in first.why


def test_rules_are_passed_by_where_that_is_wanted() -> None:
    have = node(*ROUTER, forwards6=frozenset({2, 3}), rules6=("inet a b",))
    assert len(redirecting(have, {**BOTH, "forwarding": "Redirect"}).hooks) == 2


def test_flags_of_the_program_are_those_of_the_plan() -> None:
    assert (FORWARD, PEER) == (SgBigFlag.SG_BIG_FORWARD, SgBigFlag.SG_BIG_PEER)


def test_only_a_pod_that_nobody_stands_before_is_handed_super_packets() -> None:
    have = node(HOST_END, pods=(POD,))

    def peers(here: Observed) -> frozenset[int]:
        return passages(choose(spec(LIVE), here, Findings()), here).peers

    assert peers(have) == {7}
    assert not peers(replace(have, shaped=frozenset({7}))), "a shaper on the node's end"
    assert not peers(replace(have, attached={Hook("veth7", "tc-egress"): (Attached(9),)})), "a program on the way"
    assert not peers(replace(have, pods=(replace(POD, forwards6=frozenset({2})),))), "a pod that forwards"
    assert not peers(replace(have, pods=())), "a pod that cannot be looked at"


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
