"""What has to be done on a node, from what it wants and what it has. Pure: values in, actions out.

The order makes before it breaks: devices, addresses and sysctls; programs; entries; swaps; hooks; routes; and only then
whatever is not wanted any more. Devices come in a round of their own, because programs hold their indexes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sixgate.node import actions as act
from sixgate.node import names
from sixgate.node.diff_bigtcp import plan_sizes
from sixgate.node.diff_maps import MapPlan, plan_maps

if TYPE_CHECKING:
    from collections.abc import Iterator, Set

    from sixgate.node.model import Desired, Device, HookWant, LinkPin, LinkWant, Observed, RouteKey


def diff(want: Desired, have: Observed, blocked: Set[act.Action] = frozenset()) -> tuple[act.Action, ...]:
    """Actions that lead from `have` to `want`, in order; none when they agree.

    `blocked` are actions that failed lately and will not be tried now: they stay in the answer, but nothing waits for
    them. While a device is still to be made, the answer holds only the first step; ask again with a new `have`.
    """
    devices = tuple(_devices(want, have))
    setup = (*_numbers(want, have), *devices, *_addresses(want, have), *_sysctls(want, have))
    if any(isinstance(action, act.MakeLink | act.RemoveLink) and action not in blocked for action in devices):
        return setup
    maps = plan_maps(want, have)
    hooks = tuple(_hooks(want, have, maps))
    return (
        *setup,
        *maps.load,
        *maps.fill,
        *maps.swap,
        *_balance(want),
        *maps.carry,
        *hooks,
        *maps.carry_again,
        *_routes(want, have),
        # Before programs go: a device that merges super-packets must not meet the kernel's forwarding alone.
        *plan_sizes(want, have),
        *_surplus_hooks(want, have),
        *maps.drop,
        *_surplus_programs(want, have, hooks),
        *maps.finish,
        *_surplus_network(want, have),
    )


def _numbers(want: Desired, have: Observed) -> Iterator[act.Action]:
    if dict(want.numbers) != dict(have.numbers):
        yield act.RememberNumbers(numbers=tuple(sorted(want.numbers.items())))


def _balance(want: Desired) -> Iterator[act.Action]:
    """Once for all balancers, as their tables are swapped together; before a hook can meet a packet."""
    if want.balance:
        names_of = frozenset(f"map {name}" for name in want.balance_maps)
        yield act.Balance(state=want.balance, owners=want.balance_owners, needs=names_of)


def is_ours(have: Observed, prog_id: int) -> bool:
    """True for a program that sixgate loaded, by its pin or by what the state directory remembers of this boot."""
    return prog_id in have.remembered.prog_ids or any(pin.prog_id == prog_id for pin in have.programs.values())


def _devices(want: Desired, have: Observed) -> Iterator[act.Action]:
    for link in want.links:
        seen = have.devices.get(link.name)
        made = frozenset(f"device {name}" for name in (link.name, link.peer) if name)
        if seen is None or not _same_kind(link, seen, have):
            if seen is not None:
                yield act.RemoveLink(name=link.name, owners=link.owners)
            yield act.MakeLink(name=link.name, kind=link.kind, peer=link.peer, owners=link.owners, makes=made)
            continue
        for name in filter(None, (link.name, link.peer)):
            end = have.devices[name]
            if end.mtu != link.mtu or not end.up or end.alias != act.OUR_ALIAS:
                yield act.SetLink(name=name, mtu=link.mtu, owners=link.owners)
            if not link.offloads and have.offloads.get(name):
                yield act.OffloadsOff(name=name, owners=link.owners)


def _same_kind(link: LinkWant, seen: Device, have: Observed) -> bool:
    if seen.kind != link.kind:
        return False
    peer = have.devices.get(link.peer) if link.peer else None
    return not link.peer or (peer is not None and seen.peer_ifindex == peer.ifindex)


def _addresses(want: Desired, have: Observed) -> Iterator[act.Action]:
    for item in want.addresses:
        device = have.devices.get(item.device)
        seen = device.addresses if device else ()
        if not any((a.address, a.prefix_len) == (item.address, item.prefix_len) for a in seen):
            yield act.AddAddress(
                device=item.device,
                address=item.address,
                prefix_len=item.prefix_len,
                owners=item.owners,
                needs=frozenset({f"device {item.device}"}),
            )


def _sysctls(want: Desired, have: Observed) -> Iterator[act.Action]:
    for item in want.sysctls:
        if have.sysctls.get(item.path) != item.value:
            yield act.SetSysctl(path=item.path, value=item.value, owners=item.owners)


def _hooks(want: Desired, have: Observed, maps: MapPlan) -> Iterator[act.Action]:
    # No program is switched to an empty map while sessions wait in the old one.
    carried = frozenset(resource for action in maps.carry for resource in action.makes)
    for item in want.hooks:
        mechanism = "xdp" if item.hook.hook == "xdp" else "tcx" if have.kernel.tcx else "clsact"
        pin = have.links.get(item.hook)
        filters = [a for a in have.attached.get(item.hook, ()) if a.clsact]
        program = have.programs.get(item.prog)
        prog_id = program.prog_id if program and str(item.prog) not in maps.loading else None
        if mechanism == "clsact":
            if pin is not None:
                yield act.Detach(hook=item.hook, mechanism="link", owners=item.owners)
            if not filters or filters[0].prog_id != prog_id:
                yield _attach(item, mechanism, carried)
            continue
        if filters:
            yield act.Detach(hook=item.hook, mechanism="clsact", owners=item.owners)
        yield from _link(item, mechanism, pin, prog_id, carried)


def _link(
    item: HookWant, mechanism: str, pin: LinkPin | None, prog_id: int | None, carried: frozenset[str]
) -> Iterator[act.Action]:
    if pin is None:
        yield _attach(item, mechanism, carried)
    elif pin.ifindex != item.ifindex:  # its device was deleted, or another one has the name now
        yield act.Detach(hook=item.hook, mechanism="link", owners=item.owners)
        yield _attach(item, mechanism, carried)
    elif pin.prog_id != prog_id:
        yield act.UpdateLink(**_hook_fields(item, mechanism, carried))


def _attach(item: HookWant, mechanism: str, carried: frozenset[str]) -> act.Attach:
    return act.Attach(**_hook_fields(item, mechanism, carried))


def _hook_fields(item: HookWant, mechanism: str, carried: frozenset[str]) -> act.HookFields:
    return {
        "hook": item.hook,
        "ifindex": item.ifindex,
        "prog": item.prog,
        "mechanism": mechanism,
        "required": item.required,
        "owners": item.owners,
        "needs": carried | {f"object {item.prog.object} {item.prog.key}"},
        "makes": frozenset({f"hook {item.hook}"}),
    }


def _surplus_hooks(want: Desired, have: Observed) -> Iterator[act.Action]:
    wanted = {item.hook for item in want.hooks}
    for hook, pin in sorted(have.links.items()):
        if hook not in wanted and not _frozen(want, have, pin.prog_id):
            yield act.Detach(hook=hook, mechanism="link")
    for hook, programs in sorted(have.attached.items()):
        ours = next((a for a in programs if a.clsact), None)
        if ours and hook not in wanted and not _frozen(want, have, ours.prog_id):
            yield act.Detach(hook=hook, mechanism="clsact")


def _frozen(want: Desired, have: Observed, prog_id: int) -> bool:
    """True if the program belongs to an object that is wanted but could not be resolved this time."""
    return any(pin.prog_id == prog_id and name.object in want.frozen for name, pin in have.programs.items())


def _surplus_programs(want: Desired, have: Observed, hooks: tuple[act.Action, ...]) -> Iterator[act.Action]:
    wanted = {(item.name, item.key) for item in want.objects}
    # An old program stays pinned until no hook runs it: its pin tells whose program a hook runs.
    needs = frozenset(resource for action in hooks for resource in action.makes)
    for name in sorted(have.programs):
        if (name.object, name.key) not in wanted and name.object not in want.frozen:
            yield act.Unpin(path=names.prog_path(name), needs=needs)


def _routes(want: Desired, have: Observed) -> Iterator[act.Action]:
    for item in want.routes:
        if not any(_is_same(item.route, seen) for seen in have.routes):
            needs = frozenset({f"device {item.route.device}"}) if item.route.device else frozenset()
            yield act.AddRoute(route=item.route, owners=item.owners, needs=needs)


def _is_same(want: RouteKey, seen: RouteKey) -> bool:
    """Whether a route is the wanted one; the kernel finds the device of a next hop by itself where none is named."""
    return want == (seen if want.device or not want.via else replace(seen, device=""))


def _surplus_network(want: Desired, have: Observed) -> Iterator[act.Action]:
    for route in sorted(set(have.routes)):
        if not any(_is_same(item.route, route) for item in want.routes):
            yield act.RemoveRoute(route=route)
    paths = {item.path for item in want.sysctls}
    if not want.frozen:  # an object that could not be resolved may still run on a device whose sysctls were set
        yield from (act.RestoreSysctl(path=path) for path in sorted(set(have.remembered.sysctls) - paths))
    addresses = {(item.device, item.address, item.prefix_len) for item in want.addresses}
    kept = {name for link in want.links for name in (link.name, link.peer) if name}
    for device in sorted(have.devices.values(), key=lambda d: d.ifindex):
        surplus_device = device.ours and device.name not in kept
        for seen in device.addresses:
            if seen.ours and not surplus_device and (device.name, seen.address, seen.prefix_len) not in addresses:
                yield act.RemoveAddress(device=device.name, address=seen.address, prefix_len=seen.prefix_len)
            if seen.floating and seen.address not in want.floating:
                yield act.RemoveAddress(device=device.name, address=seen.address, prefix_len=seen.prefix_len)
        if surplus_device:
            yield act.RemoveLink(name=device.name)
