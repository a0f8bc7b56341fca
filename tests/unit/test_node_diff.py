"""diff: tables of what a node wants and has, and what is to be done."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from sixgate.node import actions as act
from sixgate.node.diff import diff
from sixgate.node.model import (
    AddressSeen,
    AddressWant,
    Attached,
    Desired,
    Device,
    Hook,
    HookWant,
    InnerPin,
    Kernel,
    LinkPin,
    LinkWant,
    MapPin,
    MapShape,
    ObjectWant,
    Observed,
    ProgName,
    ProgPin,
    Remembered,
    RouteKey,
    RouteWant,
    SlotSeen,
    SlotWant,
    SysctlWant,
    TableWant,
)

OWNERS = ("NAT46Gateway/a",)
HASH = MapShape(1, 4, 8, 16, 0)
OUTER = MapShape(12, 4, 4, 1, 0)
INNER = MapShape(2, 4, 8, 1, 0)
PROG = ProgName("sg_t", "sg_t_tc", "k1")
OLD = ProgName("sg_t", "sg_t_tc", "k0")
ETH0 = Device("eth0", 2)
INGRESS = Hook("eth0", "tc-ingress")
TABLE = TableWant("sg_tab", ((b"\1", b"a"), (b"\2", b"b")), array=False, owners=OWNERS)
SLOT = SlotWant("sg_out", b"\0", ((b"\0", b"x"),), "d1", INNER, OWNERS)

WANT = Desired(
    objects=(
        ObjectWant("sg_t", "k1", "{}", ("sg_t_tc",), (("sg_out", OUTER), ("sg_tab", HASH)), OWNERS, {"sg_out": INNER}),
    ),
    hooks=(HookWant(INGRESS, 2, PROG, True, OWNERS),),
    tables=(TABLE,),
    slots=(SLOT,),
)
EMPTY = Observed(kernel=Kernel("6.18", tcx=True), devices={"eth0": ETH0})
DONE = replace(
    EMPTY,
    maps={"maps/sg_tab": MapPin("maps/sg_tab", 1, HASH), "maps/sg_out": MapPin("maps/sg_out", 2, OUTER)},
    programs={PROG: ProgPin(PROG, 10, (1, 2))},
    links={INGRESS: LinkPin(INGRESS, 20, 10, 2)},
    attached={INGRESS: (Attached(10, 20),)},
    entries={"maps/sg_tab": TABLE.contents},
    slots={"maps/sg_out": (SlotSeen("sg_out", b"\0", 30),)},
    inner=(InnerPin("sg_out", "00", "d1", 30, INNER),),
    remembered=Remembered(tables=frozenset({"sg_tab"})),
)
NOTHING = Desired()


def text(plan: tuple[act.Action, ...]) -> list[str]:
    return [str(action) for action in plan]


@dataclass(frozen=True)
class Case:
    says: str
    want: Desired
    have: Observed
    plan: list[str]

    def __str__(self) -> str:
        return self.says


LINK = LinkWant("sg-a", "veth", "sg-b", 9000, False, OWNERS)
MADE = {
    "sg-a": Device("sg-a", 5, kind="veth", ours=True, alias="sixgate", mtu=9000, peer_ifindex=6),
    "sg-b": Device("sg-b", 6, kind="veth", ours=True, alias="sixgate", mtu=9000, peer_ifindex=5),
}
ROUTE = RouteKey("192.0.2.0/24", "eth0", "", 254, 0, "unicast")
CASES = [
    Case("nothing wanted and nothing there: nothing to do", NOTHING, EMPTY, []),
    Case("all there: nothing to do", WANT, DONE, []),
    Case(
        "from nothing: load, entries, inner table, swap, attach",
        WANT,
        EMPTY,
        [
            "load sg_t",
            "write 2 entries of sg_tab",
            "build a table of 1 entries for sg_out",
            "swap 1 tables of sg_out",
            "attach sg_t_tc to tc-ingress on eth0",
        ],
    ),
    Case(
        "a new table is written and swapped in before the old one goes",
        replace(
            WANT,
            tables=(replace(TABLE, contents=((b"\2", b"b"), (b"\3", b"c"))),),
            slots=(replace(SLOT, digest="d2"),),
        ),
        DONE,
        [
            "write 1 entries of sg_tab",
            "build a table of 1 entries for sg_out",
            "swap 1 tables of sg_out",
            "delete 1 entries of sg_tab",
            "unpin inner/sg_out:00:d1",
        ],
    ),
    Case(
        "other constants: the link is updated, then the old program goes",
        WANT,
        replace(DONE, programs={OLD: ProgPin(OLD, 10, ())}),
        ["load sg_t", "replace the program on tc-ingress on eth0 by sg_t_tc", "unpin progs/sg_t:sg_t_tc:k0"],
    ),
    Case(
        "the program's link runs another program",
        WANT,
        replace(DONE, links={INGRESS: LinkPin(INGRESS, 20, 9, 2)}),
        ["replace the program on tc-ingress on eth0 by sg_t_tc"],
    ),
    Case(
        "the device was deleted and made again: the severed link is taken off first",
        WANT,
        replace(DONE, links={INGRESS: LinkPin(INGRESS, 20, 10, 0)}),
        ["detach from tc-ingress on eth0", "attach sg_t_tc to tc-ingress on eth0"],
    ),
    Case(
        "no tcx: a clsact filter",
        WANT,
        replace(DONE, kernel=Kernel("6.1", tcx=False), links={}, attached={}),
        ["attach sg_t_tc to tc-ingress on eth0"],
    ),
    Case(
        "no tcx and our filter runs the program: nothing to do",
        WANT,
        replace(DONE, kernel=Kernel("6.1", tcx=False), links={}, attached={INGRESS: (Attached(10, 0, clsact=True),)}),
        [],
    ),
    Case(
        "from clsact to tcx: never both at once",
        WANT,
        replace(DONE, links={}, attached={INGRESS: (Attached(10, 0, clsact=True),)}),
        ["detach from tc-ingress on eth0", "attach sg_t_tc to tc-ingress on eth0"],
    ),
    Case(
        "nothing wanted: hooks first, then tables, programs, maps",
        NOTHING,
        DONE,
        [
            "detach from tc-ingress on eth0",
            "unpin inner/sg_out:00:d1",
            "unpin progs/sg_t:sg_t_tc:k1",
            "unpin maps/sg_out",
            "unpin maps/sg_tab",
            "forget tables sg_tab",
        ],
    ),
    Case(
        "an object that could not be resolved keeps all it has",
        replace(NOTHING, frozen=frozenset({"sg_t"}), frozen_maps=frozenset({"sg_tab", "sg_out"})),
        DONE,
        [],
    ),
    Case(
        "a foreign tcx program beside ours is nobody's business",
        WANT,
        replace(DONE, attached={INGRESS: (Attached(77, 78), Attached(10, 20))}),
        [],
    ),
    Case(
        "a map's pin was lost: programs that hold the lost map are loaded again",
        WANT,
        replace(DONE, maps={"maps/sg_out": MapPin("maps/sg_out", 2, OUTER)}, entries={}),
        [
            "unpin progs/sg_t:sg_t_tc:k1",
            "load sg_t",
            "write 2 entries of sg_tab",
            "replace the program on tc-ingress on eth0 by sg_t_tc",
        ],
    ),
    Case(
        "a map of another layout: the new one is built beside it and renamed at the end",
        WANT,
        replace(
            DONE,
            maps={**DONE.maps, "maps/sg_tab": MapPin("maps/sg_tab", 1, MapShape(1, 4, 16, 16, 0))},
            programs={OLD: ProgPin(OLD, 10, ())},
        ),
        [
            "load sg_t",
            "write 2 entries of sg_tab",
            "replace the program on tc-ingress on eth0 by sg_t_tc",
            "unpin progs/sg_t:sg_t_tc:k0",
            "rename pin maps-new/sg_tab to maps/sg_tab",
        ],
    ),
    Case(
        "a new layout that was left half way is taken up again",
        WANT,
        replace(
            DONE,
            maps={
                "maps/sg_out": MapPin("maps/sg_out", 2, OUTER),
                "maps/sg_tab": MapPin("maps/sg_tab", 1, MapShape(1, 4, 16, 16, 0)),
                "maps-new/sg_tab": MapPin("maps-new/sg_tab", 3, HASH),
            },
            entries={"maps-new/sg_tab": TABLE.contents},
        ),
        ["rename pin maps-new/sg_tab to maps/sg_tab"],
    ),
    Case(
        "a slot that holds a table nobody pinned is swapped",
        WANT,
        replace(DONE, slots={"maps/sg_out": (SlotSeen("sg_out", b"\0", 31),)}),
        ["swap 1 tables of sg_out"],
    ),
    Case(
        "a slot that nothing wants is emptied",
        replace(WANT, slots=()),
        DONE,
        ["take 1 tables out of sg_out", "unpin inner/sg_out:00:d1"],
    ),
    Case(
        "a table that the NodeConfig no longer names is emptied",
        replace(WANT, tables=()),
        DONE,
        ["delete 2 entries of sg_tab"],
    ),
    Case(
        "entries of an array go back to zero",
        replace(
            WANT,
            objects=(replace(WANT.objects[0], maps=(("sg_out", OUTER), ("sg_tab", INNER))),),
            tables=(replace(TABLE, contents=((b"\1", b"a"),), array=True),),
        ),
        replace(
            DONE,
            maps={**DONE.maps, "maps/sg_tab": MapPin("maps/sg_tab", 1, INNER)},
            entries={"maps/sg_tab": ((b"\0", b"\0"), (b"\1", b"a"), (b"\2", b"b"))},
        ),
        ["write 1 entries of sg_tab"],
    ),
    Case(
        "a device is made in a round of its own",
        replace(WANT, links=(LINK,), sysctls=(SysctlWant("net/x", "1", OWNERS),)),
        EMPTY,
        ["create veth device sg-a with peer sg-b", "set sysctl net/x to 1"],
    ),
    Case(
        "a device without its mark, MTU or quiet",
        replace(NOTHING, links=(LINK,)),
        replace(
            EMPTY,
            devices={**MADE, "sg-b": replace(MADE["sg-b"], alias="", mtu=1500)},
            offloads={"sg-a": ("tx-checksum-ip-generic",), "sg-b": ()},
        ),
        ["switch offloads of sg-a off", "set sg-b up with MTU 9000"],
    ),
    Case(
        "a device of another kind is made anew",
        replace(NOTHING, links=(LINK,)),
        replace(EMPTY, devices={"sg-a": replace(MADE["sg-a"], kind="ipip")}),
        ["remove device sg-a", "create veth device sg-a with peer sg-b"],
    ),
    Case(
        "only devices that sixgate made are removed",
        NOTHING,
        replace(EMPTY, devices={"eth0": ETH0, "sg-a": MADE["sg-a"]}),
        ["remove device sg-a"],
    ),
    Case(
        "addresses: ours go, others stay, a wanted one that is there already is left as it is",
        replace(
            NOTHING, addresses=(AddressWant("eth0", "192.0.2.1", 24, ()), AddressWant("eth0", "192.0.2.2", 24, ()))
        ),
        replace(
            EMPTY,
            devices={
                "eth0": replace(
                    ETH0,
                    addresses=(
                        AddressSeen("192.0.2.1", 24),
                        AddressSeen("192.0.2.3", 24, ours=True),
                        AddressSeen("192.0.2.4", 24),
                    ),
                )
            },
        ),
        ["add address 192.0.2.2/24 to eth0", "remove address 192.0.2.3/24 from eth0"],
    ),
    Case(
        "routes are drawn in after the hooks and go before sysctls",
        replace(NOTHING, routes=(RouteWant(ROUTE, OWNERS),)),
        replace(
            EMPTY,
            routes=(replace(ROUTE, destination="198.51.100.0/24"),),
            remembered=Remembered(sysctls={"net/x": "0"}),
        ),
        [
            "add unicast route 192.0.2.0/24 dev eth0 in table 254",
            "remove unicast route 198.51.100.0/24 dev eth0 in table 254",
            "restore sysctl net/x",
        ],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_diff(case: Case) -> None:
    assert text(diff(case.want, case.have)) == case.plan


def test_a_device_that_cannot_be_made_does_not_hold_up_the_rest() -> None:
    want = replace(WANT, links=(LINK,))
    first = diff(want, EMPTY)
    assert text(first) == ["create veth device sg-a with peer sg-b"]
    blocked = diff(want, EMPTY, frozenset(first))
    assert text(blocked)[0] == "create veth device sg-a with peer sg-b"
    assert "attach sg_t_tc to tc-ingress on eth0" in text(blocked)


def test_what_replaces_must_succeed_before_what_is_replaced_goes() -> None:
    """Deletions need the swap, which needs the entries of the same owner and its inner table."""
    want = replace(WANT, tables=(replace(TABLE, contents=((b"\3", b"c"),)),), slots=(replace(SLOT, digest="d2"),))
    plan = {type(action): action for action in diff(want, DONE)}
    swap = plan[act.SwapSlots]
    assert plan[act.WriteEntries].makes <= swap.needs
    assert plan[act.BuildInner].makes <= swap.needs
    assert swap.makes <= plan[act.DeleteEntries].needs
    assert plan[act.WriteEntries].makes <= plan[act.DeleteEntries].needs
    assert swap.makes <= plan[act.Unpin].needs


def test_entries_of_two_owners_are_written_apart() -> None:
    """So that what the kernel refuses for one degrades only that one."""
    other = ("NAT46Gateway/b",)
    table = replace(TABLE, owners=(*OWNERS, *other), entry_owners={b"\1": OWNERS, b"\2": other})
    writes = [a for a in diff(replace(WANT, tables=(table,)), EMPTY) if isinstance(a, act.WriteEntries)]
    assert [(write.owners, len(write.contents)) for write in writes] == [(OWNERS, 1), (other, 1)]


def test_owners_do_not_make_an_action_another_one() -> None:
    assert act.Unpin(path="x", owners=OWNERS) == act.Unpin(path="x")
    assert hash(act.Unpin(path="x", needs=frozenset("a"))) == hash(act.Unpin(path="x"))
