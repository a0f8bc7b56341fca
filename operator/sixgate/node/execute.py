"""The only interpreter of actions. Each one may be repeated: what is there already, or gone already, is fine.

An action raises ApplyError or BpfError with a sentence when the kernel refuses it; nothing else leaves `run`.
"""

from __future__ import annotations

import errno
import json
import logging
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from sixgate.errors import ApplyError, BpfError
from sixgate.node import actions as act
from sixgate.node import names, offloads, pods, sysctls
from sixgate.node.bpf.ctype import MapSpec, Raw
from sixgate.node.bpf.link import Link, is_gone
from sixgate.node.bpf.map import Map
from sixgate.node.bpf.prog import Program
from sixgate.node.carry import carry_entries
from sixgate.node.model import Hook, ProgName
from sixgate.node.netlink import Netlink, NetlinkError
from sixgate.node.observe import open_raw

if TYPE_CHECKING:
    from pathlib import Path

    from sixgate.node.carry import Snapshot
    from sixgate.node.catalogue import Catalogue
    from sixgate.node.lb.engine import Engine
    from sixgate.node.statedir import StateDir

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Executor:
    root: Path
    netlink: Netlink
    state: StateDir
    catalogue: Catalogue
    balancer: Engine | None = None
    first_pass: dict[str, Snapshot] = field(default_factory=dict)  # of arrays that are being carried over, by map
    fresh: set[str] = field(default_factory=set)  # pins of maps that were made and no program is attached to yet

    def run(self, action: act.Action) -> None:
        try:
            self._dispatch(action)
        except OSError as error:
            raise ApplyError(f"Could not {action}: {error.strerror or error}.", error.errno or 0) from error
        except NetlinkError as error:
            raise ApplyError(f"Could not {action}: {error.args[1]}.", error.code) from error

    def _dispatch(self, action: act.Action) -> None:
        match action:
            case act.MakeLink():
                self.netlink.make_link(action.name, action.kind, action.peer)
            case act.SetLink():
                self.netlink.set_link(action.name, action.mtu)
            case act.OffloadsOff():
                offloads.switch_off(action.name)
            case act.RemoveLink():
                self.netlink.remove_link(action.name)
            case act.AddAddress():
                self.netlink.add_address(action.device, action.address, action.prefix_len)
            case act.RemoveAddress():
                self.netlink.remove_address(action.device, action.address, action.prefix_len)
            case act.AddRoute():
                self.netlink.add_route(action.route)
            case act.RemoveRoute():
                self.netlink.remove_route(action.route)
            case act.SetSysctl():
                self._set_sysctl(action)
            case act.RestoreSysctl():
                self._restore_sysctl(action)
            case act.RememberNumbers():
                self.state.remember_numbers(dict(action.numbers))
            case act.RememberSizes():
                self.state.remember_sizes({**dict(action.originals), **self.state.original_sizes()})
            case act.SetSizes():
                self._set_sizes(action)
            case act.ForgetSizes():
                gone = {key for key, _ in action.originals}
                kept = {key: sizes for key, sizes in self.state.original_sizes().items() if key not in gone}
                self.state.remember_sizes(kept)
            case _:
                self._dispatch_bpf(action)

    def _dispatch_bpf(self, action: act.Action) -> None:
        match action:
            case act.LoadObject():
                self._load(action)
            case act.CarryEntries():
                self._carry(action)
            case act.WriteEntries():
                self._write(action)
            case act.DeleteEntries():
                with open_raw(self.root / action.pin) as table:
                    table.delete_batch(action.keys)
            case act.BuildInner():
                self._build(action)
            case act.SwapSlots():
                self._swap(action)
            case act.ClearSlots():
                with open_raw(self.root / action.pin) as outer:
                    outer.delete_batch(action.keys)
            case act.Attach():
                self._attach(action)
            case act.UpdateLink():
                self._update(action)
            case act.Detach():
                self._detach(action)
            case act.Unpin():
                (self.root / action.path).unlink(missing_ok=True)
            case act.RenameMap():
                self._rename(action)
            case act.Balance():
                if self.balancer is not None:
                    self.balancer.sync()
            case act.ForgetTables():
                now = self.state.remembered()
                self.state.remember(replace(now, tables=now.tables - set(action.maps)))
            case _:
                raise TypeError(f"No interpretation of {type(action).__name__}.")

    def _set_sizes(self, action: act.SetSizes) -> None:
        if not action.key.netns:
            self.netlink.set_sizes(action.key.name, action.key.ifindex, action.sizes)
            return

        def there() -> None:
            with Netlink() as netlink:
                netlink.set_sizes(str(action.key), action.key.ifindex, action.sizes)

        pods.inside(action.key.netns, there)

    def _set_sysctl(self, action: act.SetSysctl) -> None:
        original = sysctls.read(action.path)
        if original is None:
            raise ApplyError(f"Sysctl {action.path} should be {action.value}, but is not there.", errno.ENOENT)
        now = self.state.remembered()
        if action.path not in now.sysctls:
            self.state.remember(replace(now, sysctls={**now.sysctls, action.path: original}))
        sysctls.write(action.path, action.value)

    def _restore_sysctl(self, action: act.RestoreSysctl) -> None:
        now = self.state.remembered()
        original = now.sysctls.get(action.path)
        if original is not None and sysctls.read(action.path) not in (None, original):
            sysctls.write(action.path, original)
        self.state.remember(replace(now, sysctls={p: v for p, v in now.sysctls.items() if p != action.path}))

    def _load(self, action: act.LoadObject) -> None:
        devices = {device.name: device.ifindex for device in self.netlink.devices().values()}
        with self.catalogue.open(action.name) as found:
            found.set_constants(json.loads(action.constants), resolve=devices.__getitem__)
            for name, entries in action.sizes:
                found.set_max_entries(name, entries)
            for directory in (names.MAPS, names.NEW_MAPS):
                chosen = [name for name, pin in action.maps if pin == f"{directory}/{name}"]
                found.reuse_pinned(self.root / directory, chosen)
            # Recorded before a map is pinned: an existing pin was compared with what is recorded of it.
            now = self.state.remembered()
            self.state.remember(replace(now, layouts={**now.layouts, **dict(action.layouts)}))
            self._remember_fields(action)
            made = {pin for _, pin in action.maps if not (self.root / pin).exists()}
            found.load()
            self.fresh.update(made)
            for name in action.programs:
                with found.program(name) as program:
                    self._pin_program(program, ProgName(action.name, name, action.key))

    def _remember_fields(self, action: act.LoadObject) -> None:
        """Layouts of state maps by their hash: a later version copies field by field."""
        pins, hashes = dict(action.maps), dict(action.layouts)
        known = self.state.map_fields()
        added = {hashes[pins[name]]: fields for name, fields in action.carried.items()}
        if not added.keys() <= known.keys():
            self.state.remember_map_fields({**known, **added})

    def _carry(self, action: act.CarryEntries) -> None:
        recorded = self.state.remembered().layouts.get(action.pin, "")
        with open_raw(self.root / action.pin) as source, open_raw(self.root / action.to) as target:
            old = self.state.map_fields().get(recorded, action.fields)
            if (old.key_size, old.value_size) != (source.info.key_size, source.info.value_size):
                raise ApplyError(
                    f"The entries of {action.map} cannot be carried over: the layout of the pinned map, "
                    f"{source.info.value_size} bytes per value, is not on record."
                )
            seen = self.first_pass.get(action.map, {}) if action.again else {}
            fresh = action.to in self.fresh and not action.again
            put, refused = carry_entries(source, target, old, action.fields, seen, fresh=fresh)
            self.first_pass[action.map] = {} if action.again else seen
        log.info("Carried %d entries of %s over%s.", put, action.map, " after the switch" if action.again else "")
        if refused:
            log.warning(
                "%d entries of %s were lost: the new map holds %d.", refused, action.map, target.info.max_entries
            )

    def _pin_program(self, program: Program, name: ProgName) -> None:
        # Recorded before it can be attached: whatever happens to the pins, a program of ours is known by its id.
        now = self.state.remembered()
        self.state.remember(replace(now, prog_ids=now.prog_ids | {program.info.id}))
        path = self.root / names.prog_path(name)
        path.unlink(missing_ok=True)
        program.pin(path)

    def _write(self, action: act.WriteEntries) -> None:
        now = self.state.remembered()
        if action.map not in now.tables:
            self.state.remember(replace(now, tables=now.tables | {action.map}))
        with open_raw(self.root / action.pin) as table:
            before = {key for key, _ in table.lookup_batch()}
            try:
                table.update_batch(action.contents)
            except BpfError as error:
                # What was added by a write that did not fit would only be in the way of one that does.
                if not _is_array(table):
                    table.delete_batch([key for key, _ in action.contents if key not in before])
                if error.errno == errno.E2BIG:
                    raise ApplyError(
                        f"Map {action.map} holds {table.info.max_entries} entries, {len(before)} of them in use; "
                        f"{len(action.contents)} more do not fit.",
                        error.errno,
                    ) from error
                raise

    def _build(self, action: act.BuildInner) -> None:
        shape = action.shape
        definition = MapSpec(
            name=action.map,
            type=shape.map_type,
            key=Raw(shape.key_size),
            value=Raw(shape.value_size),
            max_entries=shape.max_entries,
            flags=shape.flags,
        )
        path = self.root / names.inner_path(action.map, names.outer_key_name(action.outer_key), action.digest)
        path.unlink(missing_ok=True)
        with Map.create(definition) as inner:
            inner.update_batch(action.contents)
            inner.pin(path)

    def _swap(self, action: act.SwapSlots) -> None:
        inner: list[tuple[bytes, Map]] = []
        try:
            for key, digest in action.slots:
                path = self.root / names.inner_path(action.map, names.outer_key_name(key), digest)
                inner.append((key, open_raw(path)))
            with open_raw(self.root / action.pin) as outer:
                outer.update_batch([(key, _u32(table.fd)) for key, table in inner])
                for key, table in inner:
                    if outer.get_raw(key) != _u32(table.info.id):
                        raise ApplyError(
                            f"Slot {key.hex()} of {action.map} does not hold the table that was put there."
                        )
        finally:
            for _, table in inner:
                table.close()

    def _attach(self, action: act.Attach | act.UpdateLink) -> None:
        with Program.from_pin(self.root / names.prog_path(action.prog)) as program:
            if action.mechanism == "clsact":
                self._attach_clsact(action, program)
                return
            path = self.root / names.link_path(action.hook)
            with self._link(action, program) as link:
                link.pin(path)

    def _link(self, action: act.Attach | act.UpdateLink, program: Program) -> Link:
        try:
            if action.mechanism == "tcx":
                # In front of others: their verdict may end the chain, ours lets everything pass that is not for us.
                direction: Literal["ingress", "egress"] = "ingress" if action.hook.hook == "tc-ingress" else "egress"
                return Link.tcx(program, action.ifindex, direction, order="first")
            try:
                return Link.xdp(program, action.ifindex, "native")
            except BpfError as error:
                if not action.required or error.errno != errno.EOPNOTSUPP:
                    raise
                return Link.xdp(program, action.ifindex, "generic")
        except BpfError as error:
            raise ApplyError(
                f"Could not attach {action.prog.program} to {action.hook}: {error}", error.errno
            ) from error

    def _attach_clsact(self, action: act.Attach | act.UpdateLink, program: Program) -> None:
        device = action.hook.device
        now = self.state.remembered()
        made = not self.netlink.has_clsact(action.ifindex)
        qdiscs = now.qdiscs | {device} if made else now.qdiscs
        self.state.remember(replace(now, qdiscs=qdiscs, filters=now.filters | {device}))
        if made:
            self.netlink.add_clsact(action.ifindex, device)
        self.netlink.set_filter(
            action.ifindex, action.hook, prog_fd=program.fd, prog_id=program.info.id, name=action.prog.program
        )

    def _update(self, action: act.UpdateLink) -> None:
        path = self.root / names.link_path(action.hook)
        try:
            with Link.from_pin(path) as link, Program.from_pin(self.root / names.prog_path(action.prog)) as program:
                link.update(program)
            return
        except BpfError as error:
            if not is_gone(error) and error.errno != errno.ENOENT:
                raise ApplyError(f"Could not {action}: {error}", error.errno) from error
        path.unlink(missing_ok=True)
        self._attach(action)

    def _detach(self, action: act.Detach) -> None:
        if action.mechanism == "clsact":
            self._detach_clsact(action.hook)
            return
        path = self.root / names.link_path(action.hook)
        try:
            with Link.from_pin(path) as link:
                link.detach()
        except BpfError as error:
            if error.errno != errno.ENOENT:
                raise
        path.unlink(missing_ok=True)

    def _detach_clsact(self, hook: Hook) -> None:
        device = self.netlink.devices().get(hook.device)
        if device is not None:
            self.netlink.remove_filter(device.ifindex, hook.device, hook.hook)
            if self.netlink.filters(device.ifindex):
                return
            if hook.device in self.state.remembered().qdiscs:
                self.netlink.remove_clsact(device.ifindex, hook.device)
        now = self.state.remembered()
        gone = {hook.device}
        self.state.remember(replace(now, filters=now.filters - gone, qdiscs=now.qdiscs - gone))

    def _rename(self, action: act.RenameMap) -> None:
        source = self.root / action.pin
        now = self.state.remembered()
        if action.pin in now.layouts:
            self.state.remember(replace(now, layouts={**now.layouts, action.to: now.layouts[action.pin]}))
        if source.exists():
            source.replace(self.root / action.to)


def _is_array(table: Map) -> bool:
    return table.info.type in (2, 6)  # BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY: entries cannot be deleted


def _u32(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)
