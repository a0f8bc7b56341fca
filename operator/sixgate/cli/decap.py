"""`sixgate decap`: makes this machine a backend of a balancer that keeps it outside of the cluster, or without one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sixgate.cli import common
from sixgate.cli.common import ObjectsOption

if TYPE_CHECKING:
    from sixgate.api.nodeconfig import NodeConfigSpec

BPFFS = Path("/sys/fs/bpf/sixgate-decap")
STATE_DIR = Path("/var/lib/sixgate-decap")
MAX_MTU = 65535

VipOption = Annotated[list[str] | None, typer.Option("--vip", help="A virtual address; may be repeated.")]
FromOption = Annotated[
    list[str] | None,
    typer.Option("--from", help="CIDR that balancers send from; may be repeated. Packets of others are left alone."),
]
AddressOption = Annotated[
    list[str] | None,
    typer.Option("--address", help="An address of this backend, as balancers know it; left out, all that it has."),
]
DeviceOption = Annotated[list[str] | None, typer.Option("--device", help="A device, a pattern or auto; the default.")]


def decap(  # noqa: PLR0917 - options, which are given by name
    vip: VipOption = None,
    source: FromOption = None,
    address: AddressOption = None,
    device: DeviceOption = None,
    mtu: Annotated[int, typer.Option(min=1280, max=MAX_MTU, help="Least MTU between balancer and backend.")] = 1500,
    down: Annotated[bool, typer.Option("--down", help="Take it all off this machine again.")] = False,
    bpffs: common.BpffsOption = BPFFS,
    state_dir: common.StateOption = STATE_DIR,
    objects: ObjectsOption = None,
) -> None:
    """Unpack what a balancer in DSR mode sends here, and answer clients straight away with the virtual address.

    Done once; what was attached stays, without a process, until `--down` or a reboot.
    """
    from sixgate.node.agent import NodeAgent  # noqa: PLC0415
    from sixgate.node.options import NodeOptions  # noqa: PLC0415

    common.require_permission()
    where = common.objects_dir(objects)
    options = NodeOptions(bpffs.absolute(), state_dir.absolute(), where, mount_bpffs=True)
    with NodeAgent(options) as agent:
        if down:
            left = agent.down()
            for sentence in left:
                common.complain(sentence)
            common.end(common.FAILED if left else common.OK)
            return
        vips, sources = _addresses(vip, "--vip"), _cidrs(source)
        own = _addresses(address, "--address") if address else _own(set(vips))
        status = agent.apply(_spec(vips, sources, own, tuple(device or ("auto",)), mtu, where))
    if not status.ready:
        common.complain(status.message)
    common.end(common.OK if status.ready else common.FAILED)


def _spec(  # noqa: PLR0917 - what the options say
    vips: tuple[str, ...],
    sources: tuple[str, ...],
    own: tuple[str, ...],
    devices: tuple[str, ...],
    mtu: int,
    where: Path,
) -> NodeConfigSpec:
    from sixgate.cli.operator import read_digests  # noqa: PLC0415
    from sixgate.errors import Ref  # noqa: PLC0415
    from sixgate.plan.decap import DecapPart, with_decap  # noqa: PLC0415
    from sixgate.plan.nodeplan import EMPTY  # noqa: PLC0415
    from sixgate.render.renderer import Renderer  # noqa: PLC0415

    part = DecapPart(Ref("LoadBalancer", "decap"), vips, own, sources)
    return Renderer().render(with_decap(EMPTY, (part,), read_digests(where), devices, mtu))


def _addresses(words: list[str] | None, option: str) -> tuple[str, ...]:
    if not words:
        raise typer.BadParameter("At least one address must be given, and none was.", param_hint=option)
    return tuple(str(common.as_address(word, option)) for word in words)


def _cidrs(words: list[str] | None) -> tuple[str, ...]:
    if not words:
        raise typer.BadParameter("At least one address or CIDR must be given, and none was.", param_hint="--from")
    return tuple(str(common.as_network(word, "--from")) for word in words)


def _own(vips: set[str]) -> tuple[str, ...]:
    """Global addresses of this machine's devices that are no virtual ones."""
    from sixgate.node.netlink import Netlink  # noqa: PLC0415

    with Netlink() as netlink:
        devices = [device for device in netlink.devices().values() if not device.loopback]
    found = {seen.address for device in devices for seen in device.addresses if seen.scope == 0}
    return tuple(sorted(found - vips))


def register(app: typer.Typer) -> None:
    app.command(name="decap")(decap)
