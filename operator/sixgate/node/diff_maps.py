"""The part of `diff` that is about programs and maps: what to load, fill, swap and drop."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sixgate.node import actions as act
from sixgate.node import names
from sixgate.node.model import (
    Contents,
    Desired,
    InnerPin,
    MapShape,
    Observed,
    Owners,
    ProgName,
    SlotWant,
    TableWant,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, slots=True)
class MapPlan:
    """Actions in the order of their fields, and the programs (as text) that `load` will load."""

    load: tuple[act.Action, ...]
    fill: tuple[act.Action, ...]
    swap: tuple[act.Action, ...]
    drop: tuple[act.Action, ...]
    finish: tuple[act.Action, ...]
    loading: frozenset[str]
    carry: tuple[act.CarryEntries, ...] = ()  # before hooks are switched
    carry_again: tuple[act.CarryEntries, ...] = ()  # and after


@dataclass(frozen=True, slots=True)
class _Pins:
    """For every wanted map: the path it is, or will be, pinned at; `present` where that file is there and fits."""

    pin: Mapping[str, str]
    present: frozenset[str]


def plan_maps(want: Desired, have: Observed) -> MapPlan:
    pins = _choose_pins(want, have)
    loads = tuple(_loads(want, have, pins))
    tables = _tables(want, have)
    fill = tuple(_fill(tables, have, pins))
    swap = tuple(_swap(want, have, pins, fill))
    carry = tuple(_carry(want, have, pins, again=False))
    return MapPlan(
        carry=carry,
        carry_again=tuple(_carry(want, have, pins, again=True)),
        load=loads,
        fill=fill,
        swap=swap,
        drop=tuple(_drop(want, tables, have, pins, swap)),
        finish=tuple(_finish(want, tables, have, pins)),
        loading=frozenset(
            str(ProgName(a.name, program, a.key))
            for a in loads
            if isinstance(a, act.LoadObject)
            for program in a.programs
        ),
    )


def _choose_pins(want: Desired, have: Observed) -> _Pins:
    pin: dict[str, str] = {}
    present: set[str] = set()
    for item in want.objects:
        for name, shape in item.maps:
            usable = [
                file
                for file in (names.map_path(name), names.new_map_path(name))
                if _fits(have, file, shape, item.inner.get(name))
                and have.remembered.layouts.get(file, item.layouts.get(name)) == item.layouts.get(name)
            ]
            if usable:
                pin[name] = usable[0]
                present.add(name)
            else:
                taken = names.map_path(name) in have.maps
                pin[name] = names.new_map_path(name) if taken else names.map_path(name)
    return _Pins(pin, frozenset(present))


def _fits(have: Observed, file: str, shape: MapShape, inner: MapShape | None) -> bool:
    pinned = have.maps.get(file)
    if pinned is None or pinned.shape != shape:
        return False
    if inner is None:
        return True
    held = {slot.inner_id for slot in have.slots.get(file, ())}
    return all(seen.shape == inner for seen in have.inner if seen.map_id in held)


def _loads(want: Desired, have: Observed, pins: _Pins) -> Iterator[act.Action]:
    missing = {name for name in pins.pin if name not in pins.present}
    todo = []
    for item in want.objects:
        programs = [ProgName(item.name, program, item.key) for program in item.programs]
        lost = missing.intersection(name for name, _ in item.maps)
        if not lost and all(name in have.programs for name in programs):
            continue
        todo.append((item, lost))
        # A program that was loaded with a map whose pin is gone must not be taken for current once the map is made
        # anew, not even if we die in between: its pin goes first. Hooks that run it go on.
        for name in programs:
            if lost and name in have.programs:
                yield act.Unpin(path=names.prog_path(name), owners=item.owners)
    for lost_map in sorted(missing):
        if pins.pin[lost_map] in have.maps:
            yield act.Unpin(path=pins.pin[lost_map])
    for item, lost in todo:
        yield act.LoadObject(
            name=item.name,
            key=item.key,
            constants=item.constants,
            programs=item.programs,
            maps=tuple((name, pins.pin[name]) for name, _ in item.maps),
            layouts=tuple((pins.pin[name], layout) for name, layout in sorted(item.layouts.items())),
            sizes=item.sizes,
            carried=item.carried,
            owners=item.owners,
            makes=frozenset({f"object {item.name} {item.key}", *(f"map {name}" for name in lost)}),
        )


def _carry(want: Desired, have: Observed, pins: _Pins, *, again: bool) -> Iterator[act.CarryEntries]:
    """State that is in a map which is about to be replaced."""
    wanted = {name: (fields, item.owners) for item in want.objects for name, fields in item.carried.items()}
    for name, (fields, owners) in sorted(wanted.items()):
        old, new = names.map_path(name), pins.pin[name]
        if new != old and old in have.maps:
            yield act.CarryEntries(
                map=name,
                pin=old,
                to=new,
                again=again,
                fields=fields,
                owners=owners,
                needs=frozenset({f"map {name}"}),
                makes=frozenset({f"carried {name}"}),
            )


def _tables(want: Desired, have: Observed) -> tuple[TableWant, ...]:
    """Wanted tables, and an empty one for each map that a former NodeConfig filled and this one does not."""
    named = {table.map for table in want.tables}
    wanted_maps = {name for item in want.objects for name, _ in item.maps}
    orphans = (have.remembered.tables & wanted_maps) - named - want.frozen_maps
    shapes = {name: shape for item in want.objects for name, shape in item.maps}
    return (
        *want.tables,
        *(TableWant(name, (), array=shapes[name].is_array, owners=()) for name in sorted(orphans)),
    )


def _seen(have: Observed, pins: _Pins, name: str) -> dict[bytes, bytes]:
    return dict(have.entries.get(pins.pin[name], ())) if name in pins.present else {}


def _fill(tables: tuple[TableWant, ...], have: Observed, pins: _Pins) -> Iterator[act.Action]:
    for table in tables:
        seen = _seen(have, pins, table.map)
        by_owner: defaultdict[Owners, list[tuple[bytes, bytes]]] = defaultdict(list)
        for key, value in table.contents:
            if seen.get(key) != value:
                by_owner[table.entry_owners.get(key, table.owners)].append((key, value))
        for owners, entries in by_owner.items():
            yield _write(table, tuple(entries), owners, pins, needs=frozenset())


def _write(table: TableWant, entries: Contents, owners: Owners, pins: _Pins, needs: frozenset[str]) -> act.WriteEntries:
    return act.WriteEntries(
        map=table.map,
        pin=pins.pin[table.map],
        contents=entries,
        owners=owners,
        needs=needs | {f"map {table.map}"},
        makes=frozenset({f"entries {table.map}"}),
    )


def _inner_by_slot(have: Observed) -> dict[tuple[str, str, str], InnerPin]:
    return {(pin.map, pin.outer_key, pin.digest): pin for pin in have.inner}


def _swap(want: Desired, have: Observed, pins: _Pins, fill: tuple[act.Action, ...]) -> Iterator[act.Action]:
    inner = _inner_by_slot(have)
    swaps: defaultdict[tuple[str, Owners], list[SlotWant]] = defaultdict(list)
    for slot in want.slots:
        key_name = names.outer_key_name(slot.outer_key)
        pinned = inner.get((slot.map, key_name, slot.digest))
        if pinned is None or pinned.shape != slot.shape:
            yield act.BuildInner(
                map=slot.map,
                outer_key=slot.outer_key,
                digest=slot.digest,
                contents=slot.contents,
                shape=slot.shape,
                owners=slot.owners,
                makes=frozenset({_inner_resource(slot)}),
            )
        seen = have.slots.get(pins.pin[slot.map], ()) if slot.map in pins.present else ()
        current = next((s.inner_id for s in seen if s.outer_key == slot.outer_key), None)
        if pinned is None or current != pinned.map_id:
            swaps[slot.map, slot.owners].append(slot)
    for (map_name, owners), slots in swaps.items():
        yield act.SwapSlots(
            map=map_name,
            pin=pins.pin[map_name],
            slots=tuple((slot.outer_key, slot.digest) for slot in slots),
            owners=owners,
            needs=frozenset({f"map {map_name}", *map(_inner_resource, slots), *_entries_for(owners, fill)}),
            makes=frozenset({f"slots {map_name}"}),
        )


def _inner_resource(slot: SlotWant) -> str:
    return f"inner {slot.map} {slot.outer_key.hex()} {slot.digest}"


def _entries_for(owners: Owners, fill: tuple[act.Action, ...]) -> Iterator[str]:
    """What a swapped table may refer to: the entries that are written for one of the same users' objects."""
    for action in fill:
        if not owners or not action.owners or set(owners) & set(action.owners):
            yield from action.makes


def _drop(
    want: Desired, tables: tuple[TableWant, ...], have: Observed, pins: _Pins, swap: tuple[act.Action, ...]
) -> Iterator[act.Action]:
    swapped = frozenset(resource for action in swap for resource in action.makes)
    slots = {(slot.map, slot.outer_key) for slot in want.slots}
    for name in sorted(pins.present - want.frozen_maps):
        file = pins.pin[name]
        surplus = tuple(s.outer_key for s in have.slots.get(file, ()) if (name, s.outer_key) not in slots)
        if surplus:
            yield act.ClearSlots(map=name, pin=file, keys=surplus, needs=swapped)
    for table in tables:
        if table.map in want.frozen_maps:
            continue
        wanted = {key for key, _ in table.contents}
        seen = {key: value for key, value in _seen(have, pins, table.map).items() if key not in wanted}
        needs = swapped | {f"entries {table.map}"}
        if table.array:
            zeros = tuple((key, bytes(len(value))) for key, value in seen.items() if any(value))
            if zeros:
                yield _write(table, zeros, (), pins, needs)
        elif seen:
            yield act.DeleteEntries(map=table.map, pin=pins.pin[table.map], keys=tuple(seen), needs=needs)
    kept = {(slot.map, names.outer_key_name(slot.outer_key), slot.digest) for slot in want.slots}
    for key, pin in sorted(_inner_by_slot(have).items()):
        if key not in kept and pin.map not in want.frozen_maps:
            yield act.Unpin(path=names.inner_path(*key), needs=swapped)


def _finish(want: Desired, tables: tuple[TableWant, ...], have: Observed, pins: _Pins) -> Iterator[act.Action]:
    """The last step of a changed layout, and maps that nothing wants."""
    for name, file in sorted(pins.pin.items()):
        if file != names.map_path(name):
            needs = frozenset({f"map {name}", f"carried {name}"})
            yield act.RenameMap(pin=file, to=names.map_path(name), needs=needs)
        elif names.new_map_path(name) in have.maps:
            yield act.Unpin(path=names.new_map_path(name))
    for file in sorted(have.maps):
        # An object that could not be resolved may use any map: nothing goes while there is one.
        if names.map_name(file) not in pins.pin and not want.frozen:
            yield act.Unpin(path=file)
    gone = have.remembered.tables - {table.map for table in want.tables} - want.frozen_maps
    emptied = tuple(sorted(name for name in gone if not any(t.map == name and _seen(have, pins, name) for t in tables)))
    if emptied and not want.frozen:
        yield act.ForgetTables(maps=emptied)
