"""Super-packet sizes that differ from what is wanted. Pure: values in, actions out.

What a device has is recorded before it is changed, in one write for all devices of a run, and forgotten only once the
device has it again: dying in between loses nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sixgate.node import actions as act
from sixgate.node.model import SizeKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sixgate.node.model import Desired, Observed, Sizes

_RECORDED = frozenset({"original packet sizes"})


def sizes_now(have: Observed) -> dict[SizeKey, Sizes]:
    """Of every device that can be seen, those inside pods too."""
    found = {SizeKey("", device.ifindex, device.name): device.sizes for device in have.devices.values()}
    for pod in have.pods:
        found |= {SizeKey(pod.netns, d.ifindex, d.name): d.sizes for d in pod.devices.values()}
    return found


def plan_sizes(want: Desired, have: Observed) -> Iterator[act.Action]:
    now = sizes_now(have)
    changed = [item for item in want.sizes if now.get(item.key) != item.sizes and item.key in now]
    unknown = tuple(sorted((item.key, now[item.key]) for item in changed if item.key not in have.originals))
    if unknown:
        owners = tuple(sorted({owner for item in changed for owner in item.owners}))
        yield act.RememberSizes(originals=unknown, owners=owners, makes=_RECORDED)
    for item in changed:
        yield act.SetSizes(key=item.key, sizes=item.sizes, owners=item.owners, needs=_RECORDED)
    yield from _restore(
        frozenset(item.key for item in want.sizes), now, have.originals, may_enter=have.kernel.sys_admin
    )


def _restore(
    kept: frozenset[SizeKey], now: Mapping[SizeKey, Sizes], originals: Mapping[SizeKey, Sizes], *, may_enter: bool
) -> Iterator[act.Action]:
    """Gives sizes back and forgets those of devices that have them or are gone. A pod that cannot be looked at may be
    there still."""
    done = []
    for key, sizes in sorted(originals.items()):
        if key in kept and key in now:
            continue
        if key in now and now[key] != sizes:
            yield act.SetSizes(key=key, sizes=sizes)
        elif key in now or not key.netns or may_enter:
            done.append((key, sizes))
    if done:
        yield act.ForgetSizes(originals=tuple(done))
