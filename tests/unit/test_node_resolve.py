"""resolve: devices, encodings and sentences for what does not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sixgate.api.nodeconfig import NodeConfigSpec
from sixgate.node.bpf.ctype import U32, Address, Array, Field, Ifindex, Int, MapSpec, Record
from sixgate.node.devices import device_table, match
from sixgate.node.memo import TableMemo
from sixgate.node.model import AddressSeen, Attached, Device, Hook, Kernel, LinkPin, Observed, ProgName, ProgPin
from sixgate.node.resolve import ObjectFile, resolve

DIGEST = "sha256:" + "0" * 64
CONFIG = Record("sg_config", 8, (Field("features", 0, U32), Field("slow_dev", 4, Ifindex())))
INNER = MapSpec("sg_out.inner", 2, U32, Int("__u64", 8), 1)
FILE = ObjectFile(
    name="sg_t",
    digest=DIGEST,
    programs=("sg_t_tc", "sg_t_xdp"),
    maps={
        "sg_tab": MapSpec("sg_tab", 1, Address(), Int("__u64", 8), 16),
        "sg_out": MapSpec("sg_out", 12, U32, Int("map", 4), 4, inner=INNER),
        "sg_dev": MapSpec(
            "sg_dev",
            1,
            Ifindex(),
            Record(
                "sg_dev",
                40,
                (
                    Field("addr6", 0, Address()),
                    Field("addr4", 16, Address()),
                    Field("mtu", 32, U32),
                    Field("flags", 36, U32),
                ),
            ),
            64,
        ),
        "sg_tx": MapSpec("sg_tx", 25, U32, U32, 64),
    },
    rodata=Record(".rodata", 8, (Field("sg_cfg", 0, CONFIG),)),
)
LO = Device("lo", 1, loopback=True, addresses=(AddressSeen("::1", 128, scope=254),))
ETH0 = Device(
    "eth0", 2, addresses=(AddressSeen("192.0.2.1", 24), AddressSeen("fd00::1", 64), AddressSeen("2001:db8::1", 64))
)
ETH1 = Device("eth1", 3, addresses=(AddressSeen("fe80::1", 64, scope=253),))
HAVE = Observed(
    kernel=Kernel("6.18", tcx=True), devices={d.name: d for d in (LO, ETH0, ETH1)}, defaults={4: "eth0", 6: "eth0"}
)


def spec(**fields: Any) -> NodeConfigSpec:
    return NodeConfigSpec.model_validate({"formatVersion": 1, **fields})


def an_object(devices: list[str], hook: str = "tc-ingress", **fields: Any) -> dict[str, Any]:
    program = "sg_t_xdp" if hook == "xdp" else "sg_t_tc"
    attachment = {"program": program, "hook": hook, "devices": devices}
    return {"name": "sg_t", "digest": DIGEST, "owners": ["G/a"], "attachments": [attachment], **fields}


def test_constants_are_hashed_as_the_program_will_see_them() -> None:
    """The same device name with another index is another program."""
    wanted = spec(objects=[an_object(["eth0"], constants={"sg_cfg": {"slow_dev": "eth1"}})])
    first = resolve(wanted, HAVE, {"sg_t": FILE}).objects[0].key
    moved = replace(HAVE, devices={**HAVE.devices, "eth1": replace(ETH1, ifindex=9)})
    assert resolve(wanted, HAVE, {"sg_t": FILE}).objects[0].key == first
    assert resolve(wanted, moved, {"sg_t": FILE}).objects[0].key != first


def test_a_constant_that_names_a_missing_device_freezes_the_object() -> None:
    wanted = spec(objects=[an_object(["eth0"], constants={"sg_cfg": {"slow_dev": "nope"}})])
    found = resolve(wanted, HAVE, {"sg_t": FILE})
    assert found.frozen == {"sg_t"}
    assert found.hooks == ()
    assert "nope" in found.problems[0].message
    assert str(found.problems[0].ref) == "G/a"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [("auto", ["eth0"]), ("eth*", ["eth0", "eth1"]), ("eth1", ["eth1"]), ("lo", ["lo"]), ("*", ["eth0", "eth1"])],
)
def test_devices(pattern: str, names: list[str]) -> None:
    assert [device.name for device in match(pattern, HAVE)] == names


@pytest.mark.parametrize(
    "change",
    [{"up": False}, {"port": True}, {"ours": True}, {"loopback": True}],
    ids=["down", "port of a bridge", "made by sixgate", "loopback"],
)
def test_auto_leaves_out(change: dict[str, bool]) -> None:
    have = replace(HAVE, devices={"eth0": replace(ETH0, **change)})
    assert match("auto", have) == ()


def test_auto_takes_a_device_with_only_a_default_route() -> None:
    assert [d.name for d in match("auto", replace(HAVE, defaults={6: "eth1"}))] == ["eth0", "eth1"]


@pytest.mark.parametrize(
    ("devices", "sentence"),
    [
        (["eth9"], "sg_t_tc should be attached to eth9, but this node has no such device."),
        (["wan*"], "sg_t_tc should be attached to devices like wan*, but none is there."),
    ],
)
def test_a_missing_device_degrades_and_the_others_are_used(devices: list[str], sentence: str) -> None:
    found = resolve(spec(objects=[an_object([*devices, "eth0"])]), HAVE, {"sg_t": FILE})
    assert [problem.message for problem in found.problems] == [sentence]
    assert [hook.hook.device for hook in found.hooks] == ["eth0"]


def test_a_program_of_ours_that_is_not_pinned_here_is_not_doubled() -> None:
    """Another bpffs over the first: pins vanish, programs run on."""
    hook = Hook("eth0", "tc-ingress")
    have = replace(
        HAVE,
        attached={hook: (Attached(10, 20),)},
        programs={ProgName("sg_t", "x", "y"): ProgPin(ProgName("sg_t", "x", "y"), 10, ())},
    )
    found = resolve(spec(objects=[an_object(["eth0"])]), have, {"sg_t": FILE})
    assert found.hooks == ()
    assert "another bpffs" in found.problems[0].message
    pinned = replace(have, links={hook: LinkPin(hook, 20, 10, 2)})
    assert len(resolve(spec(objects=[an_object(["eth0"])]), pinned, {"sg_t": FILE}).hooks) == 1


def test_a_foreign_xdp_program_is_a_note_where_xdp_is_not_required() -> None:
    have = replace(HAVE, attached={Hook("eth0", "xdp"): (Attached(99),)})
    item = an_object(["eth0"], "xdp")
    item["attachments"][0]["required"] = False
    found = resolve(spec(objects=[item]), have, {"sg_t": FILE})
    assert found.problems == ()
    assert "somebody else" in found.notes[0].message
    assert found.hooks == ()


def test_a_hook_is_for_one_program() -> None:
    first, second = an_object(["eth0"]), an_object(["auto"], owners=["G/b"], constants={"sg_cfg": {"features": 1}})
    found = resolve(spec(objects=[first, second]), HAVE, {"sg_t": FILE})
    assert len(found.hooks) == 1
    assert found.hooks[0].owners == ("G/a",)
    assert [str(problem.ref) for problem in found.problems] == ["G/b"]


def test_entries_are_encoded_and_sorted() -> None:
    entries = [{"key": "2001:db8::1", "value": 7}, {"key": "192.0.2.1", "value": 8}]
    table = {"map": "sg_tab", "entries": entries, "owners": ["G/a"]}
    found = resolve(spec(objects=[an_object(["eth0"])], tables=[table]), HAVE, {"sg_t": FILE})
    contents = next(t.contents for t in found.tables if t.map == "sg_tab")
    assert [key[:4].hex() for key, _ in contents] == ["00000000", "20010db8"]
    assert contents[0][1] == (8).to_bytes(8, "little")


def test_a_bad_entry_degrades_its_owner_and_deletes_nothing() -> None:
    good = {"map": "sg_tab", "entries": [{"key": "192.0.2.1", "value": 1}], "owners": ["G/a"]}
    bad = {"map": "sg_tab", "entries": [{"key": "192.0.2.2", "value": -1}], "owners": ["G/b"]}
    found = resolve(spec(objects=[an_object(["eth0"])], tables=[good, bad]), HAVE, {"sg_t": FILE})
    assert {str(problem.ref) for problem in found.problems} == {"G/b"}
    assert len(next(t.contents for t in found.tables if t.map == "sg_tab")) == 1
    assert "sg_tab" in found.frozen_maps


def test_two_values_for_one_key_are_a_conflict_and_the_first_stays() -> None:
    tables = [
        {"map": "sg_tab", "entries": [{"key": "::1", "value": value}], "owners": [owner]}
        for owner, value in (("G/a", 1), ("G/b", 2))
    ]
    found = resolve(spec(objects=[an_object(["eth0"])], tables=tables), HAVE, {"sg_t": FILE})
    assert [(str(p.ref), p.reason) for p in found.problems] == [("G/b", "Conflicted")]
    assert next(t.contents for t in found.tables if t.map == "sg_tab")[0][1][0] == 1


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"map": "sg_none"}, "MapMissing"),
        ({"map": "sg_dev"}, "MapMismatch"),
        ({"map": "sg_out"}, "MapMismatch"),
        ({"map": "sg_tab", "swap": True}, "MapMismatch"),
    ],
    ids=["unknown map", "map of the node", "swapped map without swap", "plain map with swap"],
)
def test_tables_that_do_not_fit(table: dict[str, Any], reason: str) -> None:
    found = resolve(spec(objects=[an_object(["eth0"])], tables=[{**table, "owners": ["G/a"]}]), HAVE, {"sg_t": FILE})
    assert [problem.reason for problem in found.problems] == [reason]


def test_the_device_table_prefers_the_default_route_and_global_addresses() -> None:
    table = device_table(HAVE)
    assert set(table) == {0, 2}
    assert table[0] == {"addr4": "192.0.2.1", "addr6": "2001:db8::1", "mtu": 1500}


def test_devices_for_redirects() -> None:
    have = replace(HAVE, devices={n: replace(d, xdp_transmit=n == "eth1") for n, d in HAVE.devices.items()})
    found = resolve(spec(objects=[an_object(["eth0"])]), have, {"sg_t": FILE})
    assert next(t.contents for t in found.tables if t.map == "sg_tx") == (((3).to_bytes(4, "little"),) * 2,)


@pytest.mark.parametrize(("tells", "sends"), [(True, {2, 3}), (False, set()), (None, {2})])
def test_a_veth_with_xdp_sends_by_redirect_where_its_other_end_is_known_to_take_that(
    tells: bool | None, sends: set[int]
) -> None:
    """Kernels that do not tell: a card is assumed to send, a veth is not."""
    seen = {n: replace(d, xdp_transmit=None if d.loopback else tells) for n, d in HAVE.devices.items()}
    have = replace(HAVE, devices=seen | {"eth1": replace(seen["eth1"], kind="veth")})
    found = resolve(spec(objects=[an_object(["eth0", "eth1"], "xdp")]), have, {"sg_t": FILE})
    tables = {t.map: dict(t.contents) for t in found.tables}
    assert {int.from_bytes(key, "little") for key in tables["sg_tx"]} == sends
    flags = {int.from_bytes(key, "little"): value[36] for key, value in tables["sg_dev"].items()}
    assert flags == {0: 0, 2: 0, 3: 1}
    plain = resolve(spec(objects=[an_object(["eth0", "eth1"])]), have, {"sg_t": FILE})
    assert (3).to_bytes(4, "little") not in next(dict(t.contents) for t in plain.tables if t.map == "sg_dev")


def test_attached_sysctls_follow_the_hooks() -> None:
    wanted = spec(
        objects=[an_object(["eth0", "eth1"])],
        sysctls=[{"key": "net/ipv4/conf/@attached/forwarding", "value": "1"}],
    )
    assert [item.path for item in resolve(wanted, HAVE, {"sg_t": FILE}).sysctls] == [
        "net/ipv4/conf/eth0/forwarding",
        "net/ipv4/conf/eth1/forwarding",
    ]


def test_a_device_made_by_somebody_else_is_not_taken_over() -> None:
    wanted = spec(links=[{"name": "eth0", "kind": "veth", "peer": "p", "owners": ["G/a"]}])
    found = resolve(wanted, HAVE, {})
    assert found.links == ()
    assert "eth0" in found.problems[0].message


def test_a_route_is_compared_in_the_kernels_words() -> None:
    wanted = spec(routes=[{"destination": "2001:DB8:0::/64", "device": "eth0", "via": "FE80::1"}])
    route = resolve(wanted, HAVE, {}).routes[0].route
    assert (route.destination, route.via) == ("2001:db8::/64", "fe80::1")


def test_arrays_of_bytes_do_not_break_the_encoding() -> None:
    """A value type of the shared headers: an array inside a struct."""
    value = Record("v", 4, (Field("b", 0, Array(Int("__u8", 1), 4)),))
    file = replace(FILE, maps={"sg_tab": MapSpec("sg_tab", 1, U32, value, 4)})
    table = {"map": "sg_tab", "entries": [{"key": 1, "value": {"b": [1, 2]}}]}
    found = resolve(spec(objects=[an_object(["eth0"])], tables=[table]), HAVE, {"sg_t": file})
    assert found.tables[0].contents == ((b"\1\0\0\0", b"\1\2\0\0"),)


def test_a_memo_changes_nothing_but_time() -> None:
    """Also not when the device that an entry names gets another index, or the map other types."""
    memo = TableMemo()
    by_device = replace(FILE, maps={"sg_tab": MapSpec("sg_tab", 1, Ifindex(), U32, 4)})
    table = {"map": "sg_tab", "entries": [{"key": "eth1", "value": 5}]}
    wanted = spec(objects=[an_object(["eth0"])], tables=[table])
    moved = replace(HAVE, devices={**HAVE.devices, "eth1": replace(ETH1, ifindex=9)})
    gone = replace(HAVE, devices={"eth0": ETH0})
    wide = replace(FILE, maps={"sg_tab": MapSpec("sg_tab", 1, Ifindex(), Int("__u64", 8), 4)})
    for have, file in ((HAVE, by_device), (HAVE, by_device), (moved, by_device), (gone, by_device), (HAVE, wide)):
        assert resolve(wanted, have, {"sg_t": file}, memo) == resolve(wanted, have, {"sg_t": file})
    known = memo.entries(wanted.tables[0], wide.maps["sg_tab"], {"eth1": 3}.__getitem__)
    assert memo.entries(wanted.tables[0], wide.maps["sg_tab"], {"eth1": 3}.__getitem__) is known


def test_a_size_given_with_one_object_holds_for_all_that_share_the_map() -> None:
    """Otherwise the second object would not load beside the pin of the first."""
    other = replace(FILE, name="sg_u", programs=())
    first = an_object(["eth0"], maps=[{"name": "sg_tab", "maxEntries": 4096, "carry": True}])
    second = {"name": "sg_u", "digest": DIGEST, "owners": ["G/b"], "attachments": []}
    found = resolve(spec(objects=[first, second]), HAVE, {"sg_t": FILE, "sg_u": other})
    assert [item.sizes for item in found.objects] == [(("sg_tab", 4096),)] * 2
    assert all("sg_tab" in item.carried for item in found.objects)
