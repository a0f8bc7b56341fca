"""Super-packets that a node forwards: which devices' programs redirect them, and what stays small."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sixgate.api.nodeconfig import BpfObject
from sixgate.node.bpf.layouts import SgBigFlag
from sixgate.node.findings import Findings
from sixgate.node.model import (
    Attached,
    Desired,
    Hook,
    LinkPin,
    Observed,
    ProgPin,
)
from sixgate.node.resolve import ObjectFile, resolve
from sixgate.node.resolve_bigtcp import choose, passages
from sixgate.node.resolve_passage import FORWARD, PEER
from tests.unit.bigtcp_nodes import (
    BIG,
    BOTH,
    GLOBAL,
    HOST_END,
    LEGACY,
    LIVE,
    POD,
    device,
    node,
    spec,
)

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
