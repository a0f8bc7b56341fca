"""Packet sizes of real devices: set, read back, repaired, given back, in pods too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from sixgate.api.nodeconfig import NodeConfigSpec, NodeConfigStatus
from sixgate.errors import ApplyError
from sixgate.node import pods, rtlink
from sixgate.node.actions import Action, SetSizes
from sixgate.node.events import KernelEvents
from sixgate.node.inspect import inspect_sizes
from sixgate.node.model import Sizes
from sixgate.node.netfilter import RuleEvents, forward_rules6
from sixgate.node.netlink import Netlink
from sixgate.node.options import NodeOptions
from sixgate.node.statedir import KnownWays, StateDir
from tests.netns.conftest import Node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

BIG, MORE, LEGACY = 196608, 131072, 65536
OWNER = "BIGTCPPolicy/p"
PATIENCE_S = 120.0


def spec(*items: dict[str, Any]) -> NodeConfigSpec:
    whole = [{"owners": [OWNER], "include": ["e*"], **item} for item in items]
    return NodeConfigSpec.model_validate({"formatVersion": 1, "bigTcp": whole}).hashed()


BOTH = {"ipv6Size": BIG, "ipv4Size": MORE}


def sizes(name: str) -> Sizes:
    with Netlink() as netlink:
        return netlink.devices()[name].sizes


def counting(done: list[Action]) -> Callable[[Callable[[Action], None]], Callable[[Action], None]]:
    def around(run: Callable[[Action], None]) -> Callable[[Action], None]:
        def noted(action: Action) -> None:
            done.append(action)
            run(action)

        return noted

    return around


def test_sizes_are_set_and_given_back(node: Node) -> None:
    before = sizes("e0")
    assert before == Sizes()
    status = node.agent().apply(spec(BOTH))
    assert status.ready, status.message
    assert [(item.owner, item.state, item.message) for item in status.objects] == [(OWNER, "Programmed", "")]
    assert sizes("e0") == sizes("e1") == Sizes(BIG, BIG, MORE, MORE)
    assert [(row.device, row.ipv6_gso, row.ipv4_gro) for row in status.big_tcp] == [
        ("e0", BIG, MORE),
        ("e1", BIG, MORE),
    ]
    assert node.agent().apply(spec({**BOTH, "exclude": ["e1"]})).ready
    assert sizes("e1") == before
    assert sizes("e0") == Sizes(BIG, BIG, MORE, MORE)
    assert node.agent().apply(spec()).ready
    assert sizes("e0") == before
    assert not StateDir(node.state_dir).original_sizes()


def test_what_the_kernel_shows_to_others(node: Node) -> None:
    """Not only our own reader: iproute2 knows the IPv6 sizes of every version."""
    node.agent().apply(spec(BOTH))
    (shown,) = json.loads(node.ns.run("ip", "-d", "-j", "link", "show", "dev", "e0"))
    assert (shown["gso_max_size"], shown["gro_max_size"]) == (BIG, BIG)


def test_down_gives_the_original_sizes_back(node: Node) -> None:
    node.ns.ip("link set e0 gso_max_size 70000 gro_max_size 80000")
    original = sizes("e0")
    assert node.agent().apply(spec(BOTH)).ready
    assert sizes("e0") == Sizes(BIG, BIG, MORE, MORE)
    assert node.agent().down() == []
    assert sizes("e0") == original
    assert sizes("e1") == Sizes()


def test_a_second_look_writes_nothing(node: Node) -> None:
    node.agent().apply(spec(BOTH))
    node.ns.wait_settled()
    done: list[Action] = []
    with KernelEvents() as events:
        assert node.agent(around=counting(done)).apply(spec(BOTH)).ready
        assert done == []
        assert not events.drain(), "a netlink write was heard"


def test_what_others_change_and_devices_made_anew_are_repaired(node: Node) -> None:
    agent = node.agent()
    agent.apply(spec(BOTH))
    node.ns.ip("link set e0 gso_max_size 65536")
    node.ns.ip("link del e1")  # takes e0 along
    node.ns.veth("e0", "e1")
    assert sizes("e0") == Sizes()
    assert agent.apply(spec(BOTH)).ready
    assert sizes("e0") == sizes("e1") == Sizes(BIG, BIG, MORE, MORE)
    assert {key.ifindex for key in StateDir(node.state_dir).original_sizes()} == {
        node.ns.ifindex("e0"),
        node.ns.ifindex("e1"),
    }


def test_a_tunnel_that_was_not_seen_to_work_is_left_alone(node: Node) -> None:
    node.ns.ip("link add name e5 type vxlan id 7 dev e0 dstport 4789")
    status = node.agent().apply(spec(BOTH))
    assert status.ready
    assert "e5 stays without BIG TCP for IPv6: " in status.objects[0].message
    assert sizes("e5") == Sizes()
    assert sizes("e0") == Sizes(BIG, BIG, MORE, MORE)
    StateDir(node.state_dir).remember_test(KnownWays(tunnels=True))
    assert node.agent().apply(spec(BOTH)).ready
    with Netlink() as netlink:
        top = netlink.devices()["e5"].tso_max
    assert sizes("e5") == Sizes(min(BIG, top), min(BIG, top), min(MORE, top), min(MORE, top))


def test_a_device_that_vanishes_midway_leaves_the_rest_done(node: Node) -> None:
    for number in range(2, 6):
        node.ns.veth(f"e{number}0", f"e{number}1")

    def around(run: Callable[[Action], None]) -> Callable[[Action], None]:
        def cut(action: Action) -> None:
            if isinstance(action, SetSizes) and action.key.name == "e30":
                subprocess.run(["ip", "link", "del", "e30"], check=True)
            run(action)

        return cut

    status = node.agent(around=around).apply(spec(BOTH))
    assert status.ready, status.message
    kept = {"e0", "e1", "e20", "e21", "e40", "e41", "e50", "e51"}
    assert {name for name in _devices() if name.startswith("e")} == kept
    assert {sizes(name) for name in kept} == {Sizes(BIG, BIG, MORE, MORE)}


def _devices() -> set[str]:
    with Netlink() as netlink:
        return set(netlink.devices())


def test_dying_between_any_two_actions_loses_no_original(node: Node) -> None:
    class Killed(BaseException):
        pass

    original = sizes("e0")
    for allowed in range(4):

        def around(run: Callable[[Action], None], left: list[int] = [allowed]) -> Callable[[Action], None]:  # noqa: B006
            def killer(action: Action) -> None:
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                run(action)

            return killer

        with contextlib.suppress(Killed):
            node.agent(around=around).apply(spec(BOTH))
        assert node.agent().down() == []
        assert sizes("e0") == sizes("e1") == original


def test_a_device_that_forwards_ipv6_merges_no_more_than_64_kb(node: Node) -> None:
    with open("/proc/sys/net/ipv6/conf/e0/forwarding", "w") as file:
        file.write("1\n")
    status = node.agent().apply(spec({**BOTH, "include": ["e0"]}))
    assert status.ready
    assert "e0 merges IPv6 packets of at most 64 KB: the kernel forwards" in status.objects[0].message
    assert sizes("e0") == Sizes(BIG, LEGACY, MORE, MORE)
    assert node.agent().apply(spec({**BOTH, "include": ["e1"]})).ready
    assert sizes("e1") == Sizes(LEGACY, BIG, MORE, MORE), "its other end forwards what it sends"


def test_a_write_that_the_kernel_ignores_is_noticed(node: Node) -> None:
    """As on a kernel that drops the IPv4 sizes: here pyroute2 drops them, unless it was taught them."""
    with Netlink() as netlink:
        ignoring = netlink._ip.link
        netlink._ip.link = lambda *words, **fields: ignoring(
            *words, **{k: v for k, v in fields.items() if "ipv4" not in k}
        )
        with pytest.raises(ApplyError, match=r"e0 should have the packet sizes .* but the kernel shows"):
            netlink.set_sizes("e0", node.ns.ifindex("e0"), Sizes(BIG, BIG, MORE, MORE))


@pytest.fixture
def pod(node: Node) -> Iterator[str]:
    """A pod: a namespace of a random name, joined by the veth `p0` (node) to `eth0` (pod)."""
    name = f"sgt-pod-{secrets.token_hex(4)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        node.ns.ip(f"link add p0 type veth peer name eth0 netns {name}")
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def inside(name: str) -> Sizes:
    def look() -> Sizes:
        with Netlink() as netlink:
            return netlink.devices()["eth0"].sizes

    return pods.inside(f"/run/netns/{name}", look)


def test_pods_off_host_side_and_live(node: Node, pod: str) -> None:
    agent = node.agent()
    assert agent.apply(spec(BOTH)).ready
    assert sizes("p0") == inside(pod) == Sizes()
    assert agent.apply(spec({**BOTH, "pods": "HostSide"})).ready
    assert (sizes("p0"), inside(pod)) == (Sizes(BIG, BIG, MORE, MORE), Sizes())
    status = agent.apply(spec({**BOTH, "pods": "Live"}))
    assert status.ready, status.message
    assert f"{pod}/eth0" in {row.device for row in status.big_tcp}
    assert sizes("p0") == inside(pod) == Sizes(BIG, BIG, MORE, MORE)
    assert agent.down() == []
    assert sizes("p0") == inside(pod) == Sizes()


def test_a_pod_whose_node_forwards_sends_no_more_than_64_kb(node: Node, pod: str) -> None:
    with open("/proc/sys/net/ipv6/conf/p0/forwarding", "w") as file:
        file.write("1\n")
    status = node.agent().apply(spec({**BOTH, "pods": "Live"}))
    assert status.ready
    assert inside(pod) == Sizes(LEGACY, BIG, MORE, MORE)
    assert sizes("p0") == Sizes(BIG, LEGACY, MORE, MORE)
    assert f"{pod}/eth0 sends IPv6 packets of at most 64 KB" in status.objects[0].message


def test_the_raw_reader_agrees_with_ip(node: Node) -> None:
    node.ns.ip("link add name br0 type bridge")
    node.ns.ip("link set e1 master br0")
    shown = {link["ifname"]: link for link in json.loads(node.ns.run("ip", "-d", "-j", "link", "show"))}
    with Netlink() as netlink:
        found = netlink.devices()
    assert set(found) == set(shown)
    for name, link in shown.items():
        device = found[name]
        kind = link.get("linkinfo", {}).get("info_kind", "")
        assert (device.ifindex, device.mtu, device.kind, device.port) == (
            link["ifindex"],
            link["mtu"],
            kind,
            name == "e1",
        )
        assert (device.sizes.gso6, device.tso_max) == (link["gso_max_size"], link["tso_max_size"])
    assert rtlink.read_link(1 << 20) is None


def test_what_was_changed_meanwhile_is_told(node: Node) -> None:
    node.agent().apply(spec(BOTH))
    options = NodeOptions(bpffs=node.root, state_dir=node.state_dir, objects=node.objects)
    assert [(row.device, row.ipv6_gso, row.message) for row in inspect_sizes(options)] == [
        ("e0", BIG, ""),
        ("e1", BIG, ""),
    ]
    node.ns.ip("link set e0 gso_max_size 70000")
    node.ns.ip("link set e1 name f1")
    assert [(row.device, row.ipv6_gso, row.message) for row in inspect_sizes(options)] == [
        ("e0", 70000, "Somebody has changed the sizes of e0 since sixgate looked."),
        ("e1", BIG, "e1 is not there any more."),
    ]


def test_a_pod_that_is_born_later_gets_its_sizes_without_being_asked(node: Node) -> None:
    name = f"sgt-pod-{secrets.token_hex(4)}"
    live = spec({**BOTH, "pods": "Live"})

    async def once() -> AsyncIterator[NodeConfigSpec]:
        yield live
        await asyncio.Event().wait()

    async def birth() -> None:
        settled = asyncio.Event()

        async def heard(_: object) -> None:
            settled.set()

        work = asyncio.create_task(node.agent(resync_s=3600.0).run(once(), heard))
        try:
            await settled.wait()
            node.ns.ip(f"link add p0 type veth peer name eth0 netns {name}")
            while inside(name) != Sizes(BIG, BIG, MORE, MORE):
                await asyncio.sleep(0.05)
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        # Long before the next look without a cause: an event has caused this one.
        asyncio.run(asyncio.wait_for(birth(), PATIENCE_S))
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    assert sizes("e0") == Sizes(BIG, BIG, MORE, MORE)


def test_chains_of_netfilter_are_heard_of_and_rules_are_not(node: Node) -> None:
    chain = "inet filter watched"
    with RuleEvents() as events:
        assert not events.drain()
        node.ns.run("nft", "add table inet filter")
        assert not events.drain(), "a table without chains"
        assert forward_rules6() == ()
        node.ns.run("nft", f"add chain {chain} {{ type filter hook forward priority 0; }}")
        assert events.drain()
        assert forward_rules6() == (chain,)
        node.ns.run("nft", f"add rule {chain} counter")
        assert not events.drain(), "a rule inside"
        node.ns.run("nft", "delete table inet filter")
        assert events.drain()
    assert forward_rules6() == ()


def test_chains_that_no_forwarded_ipv6_packet_comes_past_do_not_count(node: Node) -> None:
    for line in (
        "add table ip a",
        "add chain ip a b { type filter hook forward priority 0; }",
        "add table inet c",
        "add chain inet c d { type filter hook input priority 0; }",
        "add chain inet c e",
    ):
        node.ns.run("nft", line)
    assert forward_rules6() == ()


def test_ipsec_policies_count(node: Node) -> None:
    node.ns.ip("xfrm policy add src 2001:db8::/32 dst 2001:db8:1::/48 dir fwd tmpl src :: dst :: proto esp mode tunnel")
    assert forward_rules6() == ("IPsec policies",)


def test_a_new_chain_wakes_the_agent(node: Node) -> None:
    """The reason that a status gives for 64 KB changes with it."""
    with open("/proc/sys/net/ipv6/conf/e0/forwarding", "w") as file:
        file.write("1\n")

    async def once() -> AsyncIterator[NodeConfigSpec]:
        yield spec(BOTH)
        await asyncio.Event().wait()

    async def watch() -> None:
        said: asyncio.Queue[str] = asyncio.Queue()

        async def heard(status: NodeConfigStatus) -> None:
            await said.put(status.objects[0].message)

        work = asyncio.create_task(node.agent(resync_s=3600.0).run(once(), heard))
        try:
            assert "would not see" not in await said.get()
            node.ns.run("nft", "add table inet filter")
            node.ns.run("nft", "add chain inet filter watched { type filter hook forward priority 0; }")
            while "inet filter watched would not see redirected packets" not in await said.get():
                pass
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    # Long before the next look without a cause: an event has caused this one.
    asyncio.run(asyncio.wait_for(watch(), PATIENCE_S))


def test_a_device_with_a_gateways_program_merges_ipv4_of_64_kb(node: Node) -> None:
    """The program of the test stands for a gateway's: both are attached to tc-ingress."""
    item = {"owners": [OWNER], "include": ["e0", "e1"], **BOTH}
    status = node.agent().apply(node.spec(bigTcp=[item], super_packets="Translated"))
    assert status.ready, status.message
    assert sizes("e0") == Sizes(BIG, BIG, MORE, LEGACY)
    assert sizes("e1") == Sizes(BIG, BIG, LEGACY, MORE), "what it sends arrives at the program"
    (policy,) = [found for found in status.objects if found.owner == OWNER]
    assert "e0 merges IPv4 packets of at most 64 KB: a gateway would have to cut" in policy.message
    assert node.agent().apply(spec(BOTH)).ready
    assert sizes("e0") == sizes("e1") == Sizes(BIG, BIG, MORE, MORE)
