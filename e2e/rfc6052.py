"""The address table of RFC 6052 section 2.4, each row as packets through a running gateway, both directions.

python -m e2e.rfc6052
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from e2e.conformance import apply_manifest, manifest
from e2e.lab.packets import udp_packet
from e2e.lab.run import LabError, LabRun
from e2e.lab.sixgate import Sixgate
from e2e.lab.wire import Expected, Plan, Wire

VECTOR_IPV4 = "192.0.2.33"
PAYLOAD = b"sixgate!"


@dataclass(frozen=True, slots=True)
class Vector:
    """One row: how 192.0.2.33 is written under a prefix; `host` is how 198.51.100.2 is, by the same rule."""

    prefix: str
    address: str
    host: str


VECTORS = (
    Vector("2001:db8::/32", "2001:db8:c000:221::", "2001:db8:c633:6402::"),
    Vector("2001:db8:100::/40", "2001:db8:1c0:2:21::", "2001:db8:1c6:3364:2::"),
    Vector("2001:db8:122::/48", "2001:db8:122:c000:2:2100::", "2001:db8:122:c633:64:200::"),
    Vector("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::", "2001:db8:122:3c6:33:6402::"),
    Vector("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::", "2001:db8:122:344:c6:3364:200::"),
    Vector("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33", "2001:db8:122:344::198.51.100.2"),
    Vector("64:ff9b::/96", "64:ff9b::192.0.2.33", "64:ff9b::198.51.100.2"),
)
HOST_IPV4 = "198.51.100.2"  # the IPv6 host's name on the IPv4 side
GATEWAY4 = "192.0.2.1/24"
GATEWAY6 = "2001:db8:6:1::1/64"
NEIGHBOUR6 = "fe80::2"


def full_mask(packet: bytes) -> bytes:
    """Every byte counts, but the identification and header checksum of IPv4."""
    mask = bytearray(b"\xff" * len(packet))
    if packet[0] >> 4 == 4:
        mask[4:6] = mask[10:12] = b"\0\0"
    return bytes(mask)


def exchange(wire: Wire, vector: Vector) -> dict[str, tuple[str, ...]]:
    """Differences of both directions of one row."""
    to4 = udp_packet(HOST_IPV4, VECTOR_IPV4, PAYLOAD, 63)
    to6 = udp_packet(vector.address, vector.host, PAYLOAD, 63)
    return {
        f"{vector.prefix} 6 to 4": wire.exchange(
            [("n6", udp_packet(vector.host, vector.address, PAYLOAD))], [Expected("n4", to4, full_mask(to4))]
        ),
        f"{vector.prefix} 4 to 6": wire.exchange(
            [("n4", udp_packet(VECTOR_IPV4, HOST_IPV4, PAYLOAD))], [Expected("n6", to6, full_mask(to6))]
        ),
    }


def run() -> dict[str, tuple[str, ...]]:
    """Differences by row and direction, in a lab of its own; all empty where the gateway is right."""
    found: dict[str, tuple[str, ...]] = {}
    with LabRun() as lab:
        hosts = [f"{vector.host} via {NEIGHBOUR6} dev {lab.device('to6')}" for vector in VECTORS]
        plan = Plan(GATEWAY6, GATEWAY4, (NEIGHBOUR6,), (VECTOR_IPV4,), tuple(hosts))
        wire = Wire(lab, plan)
        manifests = lab.workdir / "manifests"
        manifests.mkdir()
        gateway, revision = Sixgate(lab, manifests), ""
        for vector in VECTORS:
            # 192.0.2.0/24 is no global address: the well-known prefix refuses it unless told otherwise (RFC 6052 3.1).
            stateless = {"ipv4CIDRs": ["198.51.100.0/24"], "strictWellKnownPrefix": False}
            revision = apply_manifest(gateway, manifest(vector.prefix, stateless), revision)
            found |= exchange(wire, vector)
    return found


def main() -> int:
    try:
        results = run()
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for name, differences in results.items():
        print(f"{'FAIL' if differences else 'PASS'} RFC 6052 2.4 {name}  {' | '.join(differences)}".rstrip())
    return 1 if any(results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
