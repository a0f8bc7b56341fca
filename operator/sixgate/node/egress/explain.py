"""Why a packet of a pod leaves where it does, read from the pinned maps: works when no agent is alive."""

from __future__ import annotations

import errno
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sixgate.errors import ApplyError, BpfError
from sixgate.node.bpf.layouts import MAPS
from sixgate.node.bpf.map import Map
from sixgate.node.egress.maps import DIRECT, HERE, OWNER, EgressMaps
from sixgate.node.egress.tables import SET_NONE, SET_UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sixgate.node.bpf.codec import Value

REPORT = "egress.json"  # in the state directory: what the keeper knows by name


@dataclass(frozen=True, slots=True)
class Inspector:
    """The maps below a directory of pins, and the keeper's report."""

    bpffs: Path
    report: Mapping[str, Any]

    def present(self) -> bool:
        """Whether this node has a hand in egress."""
        return (self.bpffs / "maps" / "sg_eg_way").exists()

    def addresses(self, pod: str) -> tuple[str, ...]:
        """Addresses of a pod given as NAMESPACE/NAME or as an address. ApplyError where there is none on this node."""
        try:
            return (str(ipaddress.ip_address(pod)),)
        except ValueError:
            found = self.report.get("pods", {}).get(pod)
            if not found:
                text = (
                    f"{pod} should be an address, or NAMESPACE/NAME of a pod of this node; no such pod is known here."
                )
                raise ApplyError(text) from None
            return tuple(found)

    def explain(self, pod: str, destination: str) -> list[str]:
        """Sentences, from the pod's device to the gateway."""
        to = ipaddress.ip_address(destination)
        sources = [text for text in self.addresses(pod) if ipaddress.ip_address(text).version == to.version]
        if not sources:
            return [f"{pod} has no IPv{to.version} address."]
        return self._explain(sources[0], str(to))

    def _explain(self, source: str, destination: str) -> list[str]:
        entry = self._get("sg_eg_pod", source)
        if entry is None:
            said = [f"{source} is no address of a pod that this node knows."]
            number = SET_UNKNOWN
        elif entry["set"] == SET_NONE:
            return [
                f"{source} is a pod behind device {entry['ifindex']}, and no EgressGateway selects it.",
                f"Packets to {destination} leave as if egress were not there.",
            ]
        else:
            said = [f"{source} is a selected pod behind device {entry['ifindex']}; its set is {entry['set']}."]
            number = int(entry["set"])
        target = self._get("sg_eg_dst", {"prefixlen": 160, "set": number, "addr": destination})
        if target is None or not target["pair"]:
            return [
                *said,
                f"No destination of its objects covers {destination}: packets leave as if egress were not there.",
            ]
        if number == SET_UNKNOWN:
            return [
                *said,
                f"{destination} is covered by an EgressGateway: packets of unknown senders to it are dropped.",
            ]
        return [*said, *self._pair(int(target["pair"]), destination)]

    def _pair(self, pair: int, destination: str) -> list[str]:
        row = self.row(pair)
        name = f"EgressGateway/{row['object']}" if row else "an EgressGateway"
        version = ipaddress.ip_address(destination).version
        address = row.get(f"ipv{version}", "") if row else ""
        said = [
            f"{destination} is covered by {name}, with pair {pair}"
            + (f", so the source is {address}." if address else ".")
        ]
        way = self._get("sg_eg_way", pair)
        if way is None:
            return [*said, "No gateway of the pair is known to be alive: packets are dropped."]
        if int(way["flags"]) & HERE:
            return [*said, "This node owns the pair: packets leave from here."]
        owner = f" ({row['owner']})" if row and row.get("owner") else ""
        by = "straight" if int(way["flags"]) & DIRECT else "through the tunnel"
        return [*said, f"Packets go {by} to {way['gateway']}{owner}, up to {way['mtu']} bytes each."]

    def row(self, pair: int) -> dict[str, Any]:
        """What the keeper reports of a pair; empty where it does not."""
        return next((dict(row) for row in self.report.get("pairs", ()) if row["pair"] == pair), {})

    def rows(self) -> list[dict[str, Any]]:
        """Every pair that this node has a way for or owns, with what the keeper says of it."""
        if not self.present():
            return []
        ways, owned = self._all("sg_eg_way"), self._all("sg_eg_own")
        sessions = EgressMaps(self.bpffs / "maps").sessions(owned)
        rows = []
        for pair in sorted({*ways, *owned}):
            row = self.row(pair)
            own = owned.get(pair)
            state = "-" if own is None else "owner" if int(str(own["flags"])) & OWNER else "draining"
            way = ways.get(pair, {})
            rows.append(
                {
                    "object": row.get("object", ""),
                    "pair": pair,
                    "ipv4": row.get("ipv4", ""),
                    "ipv6": row.get("ipv6", ""),
                    "owner": row.get("owner", ""),
                    "gateway": way.get("gateway", ""),
                    "mtu": way.get("mtu", 0),
                    "here": state,
                    "pods": row.get("pods", 0),
                    "sessions": sessions.get(pair, 0),
                    "standby": row.get("standby", "") if state == "owner" else "",
                    "copies": row.get("copies", 0) if state == "owner" else 0,
                    "behind": row.get("behind_seconds", 0) if state == "owner" else 0,
                    "uncopied": row.get("uncopied", "") if state == "owner" else "",
                }
            )
        return rows

    def _map(self, name: str) -> Map:
        return Map.from_pin(self.bpffs / "maps" / name, spec=MAPS[name])

    def _get(self, name: str, key: object) -> dict[str, Any] | None:
        try:
            with self._map(name) as table:
                found = table.get(key)
        except BpfError as error:
            if error.errno != errno.ENOENT:
                raise
            raise ApplyError("This node has no hand in egress: none of its maps is there.") from error
        return found if isinstance(found, dict) else None

    def _all(self, name: str) -> dict[int, dict[str, Value]]:
        with self._map(name) as table:
            return {int(str(key)): value for key, value in table.items() if isinstance(value, dict)}
