"""What stateful NAT would do with one packet, told from its tables: a few look-ups that change nothing.

Its programs are not run for a question: a run finds a session or makes one, and either changes tables that packets
use. So limits, filters and TCP states are not tried; whose packet it is, its mapping and what it becomes are read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any, cast

from sixgate.api.addr import embed, extract
from sixgate.node import names
from sixgate.node.bpf.layouts import MAPS, SgGwFlag, SgOwnFlag
from sixgate.node.bpf.map import Map
from sixgate.node.nat import PROTOCOLS
from sixgate.node.packets import End, Seen

if TYPE_CHECKING:
    from pathlib import Path

    from sixgate.api.nodeconfig import NodeConfigSpec
    from sixgate.node.numbers import Numbers

_SHARED = 0x80000000  # SG_ST_SHARED in a slot, SG_ST_BY_PORT in a key
_KEPT_BLOCKS = 1024  # SG_ST_KEPT_BLOCKS
_BLOCK = 64  # SG_ST_BLOCK: ports in one entry of sg_st_port
_READ = "read from its tables; its program is not run, for that would touch them"
_BY_NUMBER = {"tcp": PROTOCOLS["tcp"], "udp": PROTOCOLS["udp"], "icmp": PROTOCOLS["icmp"], "icmpv6": PROTOCOLS["icmp"]}


@dataclass(frozen=True, slots=True)
class Told:
    """What would become of a packet: `reason` is the name in C, empty where it depends on what is not read; `after` is
    None where it is dropped or its new source is not chosen yet; `target` is where it is sent, if it is."""

    object: str
    reason: str
    sentence: str
    after: Seen | None = None
    target: str = ""


@dataclass(frozen=True, slots=True)
class Sessions:
    """Pinned tables below `root`, with the names of objects by their numbers, and the gateways of `spec`."""

    root: Path
    objects: dict[int, str]
    gateways: tuple[tuple[IPv6Network, int], ...]  # of stateful objects: prefix and number
    kept: dict[int, int]  # by family, where the ports of clients that keep their addresses begin in sg_st_port

    @classmethod
    def of(cls, root: Path, spec: NodeConfigSpec, numbers: Numbers) -> Sessions:
        """`numbers` are those that the node has handed out."""
        given = numbers["obj"].given if "obj" in numbers else {}
        ports = numbers["port"].given if "port" in numbers else {}
        owners = {i.name: i.owners[0] for s in spec.numbers if s.space == "obj" for i in s.items if i.owners}
        objects = {number: owners.get(name, name) for name, (number, _) in given.items()}
        gateways = []
        kept = {}
        for table in spec.tables:
            for entry in table.entries if table.map == "sg_nat" else ():
                for family in (4, 6):
                    at = cast("dict[str, Any]", entry.value).get(f"kept{family}")
                    if at is not None:
                        kept[family] = ports.get(at["$number"].partition("/")[2], (0, 0))[0]
                for gateway in cast("dict[str, Any]", entry.value).get("gw", ()):
                    if gateway.get("flags", 0) & SgGwFlag.SG_GW_STATEFUL:
                        number = gateway["obj"]
                        if isinstance(number, dict):
                            number = given.get(number["$number"].partition("/")[2], (0, 0))[0]
                        gateways.append((IPv6Network((gateway["prefix"], gateway["prefix_len"])), int(number)))
        return cls(root, objects, tuple(gateways), kept)

    def look(self, seen: Seen) -> Told | None:
        """None where the packet is none of any stateful object's."""
        if not (self.root / names.map_path("sg_st_map")).exists():
            return None
        proto = _BY_NUMBER.get(seen.protocol, 0)
        vip = {"addr": str(seen.target.address), "port": seen.target.port, "proto": proto}
        service = self._get("sg_st_vip", vip)
        if service is not None:
            found = self._get("sg_st_svcs", service)
            return self.outbound(seen, int(found["obj"]), service=int(service))
        own = self._get("sg_st_own", str(seen.target.address))
        if own is not None:
            return self._inbound(seen, proto, own)
        if seen.target.address.version in self.kept and proto in {PROTOCOLS["tcp"], PROTOCOLS["udp"]}:
            told = self._to_kept(seen, proto)
            if told is not None:
                return told
        for prefix, number in self.gateways:
            if seen.target.address in prefix:
                return self.outbound(seen, number, prefix=prefix)
        return None

    def balanced(self, seen: Seen, service: int) -> Told:
        """A packet of a client to a balancer's virtual address in mode NAT."""
        found = self._get("sg_st_svcs", service)
        return self.outbound(seen, int(found["obj"]), service=service, vport=seen.target.port)

    def outbound(
        self,
        seen: Seen,
        number: int,
        *,
        service: int | None = None,
        prefix: IPv6Network | None = None,
        vport: int = 0,
    ) -> Told:
        """A packet of a client. `prefix` of a NAT64, `service` of a virtual address, which a balancer has for many
        ports (`vport`); else the family stays."""
        name = self.objects.get(number, f"object {number}")
        key = {
            "addr": str(seen.source.address),
            "port": seen.source.port,
            "proto": _BY_NUMBER.get(seen.protocol, 0),
            "by_svc": int(service is not None),
            "dom": number if service is None else service,
            "vport": vport,
        }
        index = self._get("sg_st_fwd", key)
        mapping = None if index is None else self._get("sg_st_map", index)
        if mapping is None or not mapping["refs"]:
            return self._new(seen, name, prefix)
        target = self._remote(seen, mapping, prefix, service)
        if target is None:
            return Told(name, "", f"{name} knows the client, and chooses a backend when the packet comes ({_READ}).")
        after = _moved(seen, End(ip_address(mapping["out"]), int(mapping["out_port"])), target)
        return Told(name, _reason(seen, after), self._known(name, mapping, after), after, str(target.address))

    def of_any(self, seen: Seen, numbers: tuple[int, ...]) -> Told | None:
        """A packet that came for one of some objects, which the frame around it says and nothing in it: the one that
        knows it, else one of a new session. None where there is no object."""
        told = [self.outbound(seen, number) for number in numbers]
        return next((each for each in told if each.after is not None), told[0] if told else None)

    def _new(self, seen: Seen, name: str, prefix: IPv6Network | None) -> Told:
        """No mapping: a beginning makes one, anything else is dropped."""
        if not seen.begins:
            text = f"{name} drops it: it belongs to no mapping or session, and is no SYN ({_READ})."
            return Told(name, "SG_DROP_ST_NO_STATE", text)
        target = str(extract(prefix, cast("IPv6Address", seen.target.address))) if prefix is not None else ""
        to = f" to {target}" if target else ""
        text = (
            f"{name} has no mapping for {seen.source}: the packet begins a session{to}, whose source is chosen from "
            f"the pool when it comes, unless a limit is reached ({_READ})."
        )
        return Told(name, "", text, None, target)

    def _remote(
        self, seen: Seen, mapping: dict[str, Any], prefix: IPv6Network | None, service: int | None
    ) -> End | None:
        if prefix is not None:
            return End(extract(prefix, cast("IPv6Address", seen.target.address)), seen.target.port)
        if service is None:
            return seen.target
        session = self._get("sg_st_sess", int(mapping["last"]) - 1) if mapping["last"] else None
        return End(ip_address(session["remote"]), int(session["rport"])) if session is not None else None

    def _inbound(self, seen: Seen, proto: int, own: dict[str, Any]) -> Told | None:
        """To an address of a pool. None where it is left to the host."""
        name = self.objects.get(int(own["obj"]), f"object {own['obj']}")
        port = seen.target.port if seen.icmp is None else seen.source.port
        block = port // _BLOCK
        row = list(PROTOCOLS.values()).index(proto) if proto else -1
        mapping = None
        if row >= 0 and own["first_block"] <= block < own["first_block"] + own["blocks"]:
            mapping = self._mapping_of_port(seen, own["base"] + row * own["blocks"] + block - own["first_block"], port)
        if mapping is None or not mapping["refs"] or mapping["out_port"] != port:
            if own["flags"] & SgOwnFlag.SG_OWN_HOST:
                return None
            if own["flags"] & SgOwnFlag.SG_OWN_STATIC:
                bound = self._get(
                    "sg_st_bind", {"addr": str(seen.target.address), "port": port, "proto": proto, "side": 1}
                )
                if bound is not None:
                    text = f"{name} has a static binding of it to {bound['addr']} port {bound['port']} ({_READ})."
                    return Told(name, "", text, None, str(bound["addr"]))
            return Told(name, "SG_DROP_ST_NO_STATE", f"{name} drops it: it belongs to no mapping or session ({_READ}).")
        name = self.objects.get(int(mapping["obj"]), name)
        inside = End(ip_address(mapping["in"]), int(mapping["in_port"]))
        after = _moved(seen, self._source(seen, mapping, inside), inside)
        return Told(name, _reason(seen, after), self._known(name, mapping, after), after, str(inside.address))

    def _to_kept(self, seen: Seen, proto: int) -> Told | None:
        """From a backend to a client that kept its address; None for all else."""
        row, port = list(PROTOCOLS.values()).index(proto), seen.target.port
        block = self.kept[seen.target.address.version] + row * _KEPT_BLOCKS + port // _BLOCK
        mapping = self._mapping_of_port(seen, block, port)
        if mapping is None or mapping["out_port"] != port or ip_address(mapping["out"]) != seen.target.address:
            return None
        name = self.objects.get(int(mapping["obj"]), f"object {mapping['obj']}")
        inside = End(ip_address(mapping["in"]), int(mapping["in_port"]))
        after = _moved(seen, self._source(seen, mapping, inside), inside)
        return Told(name, _reason(seen, after), self._known(name, mapping, after), after, str(inside.address))

    def _mapping_of_port(self, seen: Seen, block: int, port: int) -> dict[str, Any] | None:
        """The mapping that has a pool's port; where services share it, the one whose backend sends."""
        ports = self._get("sg_st_port", block)
        slot = int(ports["slot"][port % _BLOCK]) if ports is not None else 0
        if not slot & _SHARED:
            return self._get("sg_st_map", slot - 1) if slot else None
        key = {
            "addr": str(seen.source.address),
            "port": seen.source.port if seen.icmp is None else 0,
            "map": _SHARED | (block * _BLOCK + port % _BLOCK),
        }
        index = self._get("sg_st_find", key)
        session = None if index is None else self._get("sg_st_sess", index)
        return None if session is None else self._get("sg_st_map", session["map"])

    def _source(self, seen: Seen, mapping: dict[str, Any], inside: End) -> End:
        """Who the client takes the sender for."""
        if mapping["svc"]:
            vip = self._get("sg_st_svcs", int(mapping["svc"]) - 1)["vip"]
            return End(ip_address(vip["addr"]), int(mapping["vport"]) or int(vip["port"]))
        if inside.address.version == seen.source.address.version:
            return seen.source
        gateway = self._get("sg_st_obj", int(mapping["obj"]))["gw"]
        prefix = IPv6Network((gateway["prefix"], gateway["prefix_len"]))
        return End(embed(prefix, cast("IPv4Address", seen.source.address)), seen.source.port)

    @staticmethod
    def _known(name: str, mapping: dict[str, Any], after: Seen) -> str:
        client, pool = (End(ip_address(mapping[side]), int(mapping[f"{side}_port"])) for side in ("in", "out"))
        return f"{name} has a mapping of {client} to {pool}: the packet becomes {after} ({_READ})."

    def _get(self, name: str, key: object) -> Any:
        with Map.from_pin(self.root / names.map_path(name), spec=MAPS[name]) as table:
            return table.get(key)


def _moved(seen: Seen, source: End, target: End) -> Seen:
    protocol = seen.protocol
    if protocol in {"icmp", "icmpv6"}:
        protocol = "icmp" if target.address.version == 4 else "icmpv6"
        echo = {("icmp", 8): 8, ("icmp", 128): 8, ("icmpv6", 8): 128, ("icmpv6", 128): 128}
        kind = seen.icmp[0] if seen.icmp else 0
        seen = replace(seen, icmp=(echo.get((protocol, kind), kind), 0))
        source, target = End(source.address, source.port or target.port), End(target.address)
    return replace(seen, source=source, target=target, protocol=protocol, ttl=seen.ttl - 1)


def _reason(before: Seen, after: Seen) -> str:
    return f"SG_OK_{before.source.address.version}{after.source.address.version}"
