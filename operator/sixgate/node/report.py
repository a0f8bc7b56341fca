"""What a node says of itself: results per user's object, devices, kernel. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sixgate.api.nodeconfig import BigTcpReport, DeviceReport, ItemResult, NodeConfigStatus
from sixgate.node.diff_bigtcp import sizes_now
from sixgate.node.findings import owner_ref
from sixgate.node.model import Hook

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sixgate.api.nodeconfig import NodeConfigSpec
    from sixgate.api.nodeconfig_base import Owned
    from sixgate.errors import Ref
    from sixgate.node.actions import Action
    from sixgate.node.model import Desired, Observed


MAX_SIZED = 100  # devices in one status: a node may have thousands


@dataclass(frozen=True, slots=True)
class Failure:
    """An action that the kernel refused; `degrades` is False for an acceleration that is not required."""

    action: Action
    message: str
    errno: int = 0
    degrades: bool = True


def report(spec: NodeConfigSpec, want: Desired, have: Observed, failures: tuple[Failure, ...]) -> NodeConfigStatus:
    """Status after one reconciliation: `have` and `want` are of its last round."""
    bad = [(problem.ref, problem.reason, problem.message) for problem in want.problems]
    soft = [(note.ref, note.reason, note.message) for note in want.notes]
    for failure in failures:
        for owner in failure.action.owners or ("",):
            (bad if failure.degrades else soft).append((owner_ref(owner), "KernelRefused", failure.message))
    soft += _generic(want, have)
    owners = sorted({owner_ref(owner) for owner in _owners(spec)})
    items = tuple(_item(ref, bad, soft) for ref in owners)
    unowned = [message for ref, _, message in bad if ref not in owners]
    messages = list(dict.fromkeys([*unowned, *(message for _, _, message in bad)]))
    return NodeConfigStatus(
        applied_revision=spec.revision,
        ready=not bad,
        message=" ".join(messages[:3]) + (f" And {len(messages) - 3} more." if len(messages) > 3 else ""),
        objects=items,
        devices=tuple(_devices(have)),
        big_tcp=sizes_report(want, have)[:MAX_SIZED],
        kernel={"release": have.kernel.release, "tcx": have.kernel.tcx},
    )


def _generic(want: Desired, have: Observed) -> Iterator[tuple[Ref, str, str]]:
    """Devices whose drivers have no XDP, where it was required: it works, and is no acceleration."""
    for item in want.hooks:
        device = item.hook.device
        if item.hook.hook == "xdp" and device in have.devices and mechanism_on(have, device, "xdp") == "xdp-generic":
            text = f"{device} should run XDP natively, but its driver has no XDP: the program runs there in generic "
            for owner in item.owners:
                yield owner_ref(owner), "KernelRefused", f"{text}mode, behind the driver, which is no faster than tc."


def sizes_report(want: Desired, have: Observed) -> tuple[BigTcpReport, ...]:
    """Every selected device that is still there, those that fall short first."""
    now = sizes_now(have)
    rows = [
        BigTcpReport(
            device=str(item.key),
            ipv6_wanted=item.wanted6,
            ipv4_wanted=item.wanted4,
            ipv6_gso=now[item.key].gso6,
            ipv6_gro=now[item.key].gro6,
            ipv4_gso=now[item.key].gso4,
            ipv4_gro=now[item.key].gro4,
            message=item.why,
        )
        for item in want.sizes
        if item.key in now
    ]
    return tuple(sorted(rows, key=lambda row: (not row.message, row.device)))


def _item(ref: Ref, bad: list[tuple[Ref, str, str]], soft: list[tuple[Ref, str, str]]) -> ItemResult:
    mine = [(reason, message) for found, reason, message in bad if found == ref]
    notes = [(reason, message) for found, reason, message in soft if found == ref]
    said = mine or notes
    return ItemResult(
        owner=str(ref),
        state="Degraded" if mine else "Programmed",
        reason=said[0][0] if said else "",
        message=" ".join(dict.fromkeys(message for _, message in [*mine, *notes])),
    )


def _owners(spec: NodeConfigSpec) -> Iterator[str]:
    groups: tuple[Iterable[Owned], ...] = (
        spec.objects,
        spec.tables,
        spec.links,
        spec.addresses,
        spec.routes,
        spec.sysctls,
        spec.big_tcp,
        spec.balancers,
        spec.announcements,
    )
    for group in groups:
        for item in group:
            yield from item.owners


def _devices(have: Observed) -> Iterator[DeviceReport]:
    """Without those of pods: they come and go by the hundred, and a status is written for people."""
    hooks: dict[str, dict[str, str]] = {}
    for hook in sorted(set(have.links) | set(have.attached)):
        if hook.device in have.devices and hook.device not in have.pod_ports.pods:
            mechanism = mechanism_on(have, hook.device, hook.hook)
            if mechanism:
                hooks.setdefault(hook.device, {})[hook.hook] = mechanism
    for device in sorted(have.devices.values(), key=lambda d: d.ifindex):
        if device.name in hooks:
            yield DeviceReport(name=device.name, ifindex=device.ifindex, hooks=hooks[device.name])


def mechanism_on(have: Observed, device: str, hook_name: str) -> str:
    """How our program is attached to a hook: `tcx`, `clsact`, `xdp-native`, `xdp-generic`; empty where it is not."""
    hook = Hook(device, hook_name)
    pin = have.links.get(hook)
    if pin is not None and pin.ifindex == have.devices[device].ifindex:
        if hook_name != "xdp":
            return "tcx"
        modes = [seen.mode for seen in have.attached.get(hook, ()) if seen.prog_id == pin.prog_id]
        return f"xdp-{modes[0]}" if modes and modes[0] else "xdp"
    return "clsact" if any(seen.clsact for seen in have.attached.get(hook, ())) else ""
