"""Ports that the host itself uses at addresses of a pool: they are kept apart, never given to a client.

Reserved are, for TCP, UDP and ICMP alike, the ports that the kernel may choose for connections of its own
(ip_local_port_range without ip_local_reserved_ports) and those that a socket is bound to now.
"""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sixgate.api.nodeconfig import Entry, Table

if TYPE_CHECKING:
    from sixgate.node.findings import Findings
    from sixgate.node.model import Observed

OWN_TABLE, RESERVED_TABLE = "sg_st_own", "sg_st_resv"
OWN_HOST = 1  # SG_OWN_HOST
OWN_SAME = 4  # SG_OWN_SAME
PROTOCOLS = 3  # SG_ST_PROTOS
BLOCK = 64  # SG_ST_BLOCK
MAX_NAMED = 6
_SOCKETS = ("tcp", "tcp6", "udp", "udp6")
_TIME_WAIT = "06"


@dataclass(frozen=True, slots=True)
class HostPorts:
    """`chosen` are the ports that the kernel may choose, as (first, last); `bound` address to ports, "" for any."""

    chosen: tuple[tuple[int, int], ...] = ()
    bound: tuple[tuple[str, frozenset[int]], ...] = ()

    def of(self, address: str) -> frozenset[int]:
        """All ports that the host uses, or may use, at one of its addresses."""
        ports = {port for first, last in self.chosen for port in range(first, last + 1)}
        for where, bound in self.bound:
            if where in ("", address):
                ports |= bound
        return frozenset(ports)


def read_host_ports(
    proc: Path = Path("/proc/thread-self/net"), sysctls: Path = Path("/proc/sys/net/ipv4")
) -> HostPorts:
    """What the network namespace of this thread uses now."""
    first, last = (int(word) for word in (sysctls / "ip_local_port_range").read_text().split())
    kept_free = parse_ranges((sysctls / "ip_local_reserved_ports").read_text())
    chosen = runs(set(range(first, last + 1)) - {p for a, b in kept_free for p in range(a, b + 1)})
    bound: defaultdict[str, set[int]] = defaultdict(set)
    for name in _SOCKETS:
        try:
            lines = (proc / name).read_text().splitlines()[1:]
        except OSError:
            continue  # a kernel without this family
        for address, port in _bound(lines):
            if not first <= port <= last:
                bound[address].add(port)
    return HostPorts(tuple(chosen), tuple(sorted((where, frozenset(ports)) for where, ports in bound.items())))


def parse_ranges(text: str) -> list[tuple[int, int]]:
    """`80,8000-8080` as first and last ports."""
    found = re.findall(r"(\d+)(?:-(\d+))?", text)
    return [(int(first), int(last or first)) for first, last in found]


def runs(ports: Iterable[int]) -> list[tuple[int, int]]:
    """Ports as first and last of each row."""
    made: list[tuple[int, int]] = []
    for port in sorted(ports):
        if made and made[-1][1] + 1 == port:
            made[-1] = (made[-1][0], port)
        else:
            made.append((port, port))
    return made


def _bound(lines: list[str]) -> Iterator[tuple[str, int]]:
    """Local address ("" for any) and port of each line of /proc/net/tcp and the like."""
    for line in lines:
        words = line.split()
        if words[3] == _TIME_WAIT:
            continue
        where, _, port = words[1].partition(":")
        raw = b"".join(bytes.fromhex(where[at : at + 8])[::-1] for at in range(0, len(where), 8))
        address = ipaddress.ip_address(raw)
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        address = mapped or address
        yield "" if int(address) == 0 else str(address), int(port, 16)


def keep_apart(tables: tuple[Table, ...], have: Observed, found: Findings) -> tuple[Table, ...]:
    """`tables` with the host's addresses marked in OWN_TABLE and its ports in RESERVED_TABLE; says so to the owners."""
    if have.host_ports is None:
        return tables
    local = {
        a.address: a.floating
        for device in have.devices.values()
        for a in device.addresses
        if not a.ours and not device.ours
    }
    reserved: defaultdict[int, int] = defaultdict(int)
    owners: set[str] = set()
    made = []
    for table in tables:
        if table.map != OWN_TABLE:
            made.append(table)
            continue
        entries = []
        for entry in table.entries:
            value: Any = entry.value
            flags = int(value.get("flags", 0)) if isinstance(value, dict) else 0
            # An address that is only here to be announced is the pool's, as if it were routed here.
            announced = local.get(str(entry.key)) is True and not flags & OWN_SAME
            if str(entry.key) in local and isinstance(value, dict) and not announced:
                value = value | {"flags": flags | OWN_HOST}
            # One that egress has put on is no source of the host's own connections.
            if local.get(str(entry.key)) is False and isinstance(value, dict):
                ports = have.host_ports.of(str(entry.key))
                _reserve(reserved, value, ports)
                owners |= set(table.owners)
                found.note(table.owners, "HostPorts", _sentence(str(entry.key), ports, value))
            entries.append(entry.model_copy(update={"value": value}))
        made.append(table.model_copy(update={"entries": tuple(entries)}))
    if not reserved:
        return tuple(made)
    return (*(table for table in made if table.map != RESERVED_TABLE), _joined(made, reserved, owners))


def _reserve(reserved: defaultdict[int, int], own: dict[str, Any], ports: frozenset[int]) -> None:
    """Sets the bits of `ports` in the blocks of one address, of each protocol."""
    base, first, blocks = (int(own.get(name, 0)) for name in ("base", "first_block", "blocks"))
    for port in ports:
        block = port // BLOCK - first
        if 0 <= block < blocks:
            for protocol in range(PROTOCOLS):
                reserved[base + protocol * blocks + block] |= 1 << (port % BLOCK)


def _joined(tables: list[Table], reserved: dict[int, int], owners: set[str]) -> Table:
    """One RESERVED_TABLE of what the NodeConfig reserves (static bindings) and what the host uses."""
    bits = defaultdict(int, reserved)
    everyone = set(owners)
    for table in tables:
        if table.map == RESERVED_TABLE:
            everyone |= set(table.owners)
            for entry in table.entries:
                assert isinstance(entry.key, int)
                assert isinstance(entry.value, int)
                bits[entry.key] |= entry.value
    entries = tuple(Entry.model_construct(key=key, value=value) for key, value in sorted(bits.items()))
    return Table.model_construct(
        owners=tuple(sorted(everyone)), map=RESERVED_TABLE, swap=False, outer_key=None, entries=entries
    )


def _sentence(address: str, ports: frozenset[int], own: dict[str, Any]) -> str:
    first, blocks = int(own.get("first_block", 0)), int(own.get("blocks", 0))
    inside = {port for port in ports if first <= port // BLOCK < first + blocks}
    rows = [str(a) if a == b else f"{a}-{b}" for a, b in runs(inside)]
    named = ", ".join(rows[:MAX_NAMED]) + (f" and {len(rows) - MAX_NAMED} more ranges" if len(rows) > MAX_NAMED else "")
    return f"{address} is an address of this host; its ports {named or '(none)'} are not given to clients."
