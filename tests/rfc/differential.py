"""Random packets through the real gateway and through the model: they must agree on every one.

    python -m tests.rfc.differential --packets 1000000 [--seed N]

Every packet that leaves is also looked at by the checksum oracle. A disagreement prints the node, the packet and both
sides' opinions; the exit code is 1 where there was one.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, field

from tests.rfc.generate import Generator
from tests.rfc.live import LiveGateway
from tests.rfc.model import ONLY_IPV6, translate
from tests.rfc.nodes import NODES
from tests.rfc.oracle import verify_packet
from tests.rfc.verdict import Observed, compare
from tests.rfc.wire import ICMP4, parse4, parse6


@dataclass(slots=True)
class Tally:
    """What a run saw. `faults` are sentences, one per packet that was wrong; `kinds` counts outcomes by name."""

    packets: int = 0
    sent: int = 0
    faults: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)


def run(gateway: LiveGateway, packets: int, seed: int, *, most_faults: int = 50) -> Tally:
    """Sends about `packets` random packets, shared among the nodes; ends early after `most_faults` faults.

    Each is sent twice: the second time, what the data plane has remembered of the first is used.
    """
    tally = Tally()
    for number, node in enumerate(NODES):
        generator = Generator(seed * len(NODES) + number)
        gateway.configure(node)
        for count in range(-(-packets // len(NODES))):
            if count % 2 == 0:
                packet = generator.packet(node)
                outcome = translate(node, packet)
            seen = gateway.translate(packet)
            faults = compare(outcome, seen)
            if faults:  # a packet that was only late is not a fault
                seen = later(gateway, seen)
                faults = compare(outcome, seen)
            tally.packets += 1
            tally.sent += len(seen.packets)
            tally.kinds[str(seen.reason)] += 1
            faults += damage(packet, seen)
            if faults:
                tally.faults.append(f"node {number}, {packet.hex()}: {'; '.join(faults)} ({seen.reason})")
                if len(tally.faults) >= most_faults:
                    return tally
    return tally


def later(gateway: LiveGateway, seen: Observed) -> Observed:
    """The observation with what arrives within a moment."""
    return Observed((*seen.packets, *gateway.late()), seen.reason, seen.passed)


def damage(packet: bytes, seen: Observed) -> list[str]:
    """Faults that the gateway added: an upper checksum that was wrong before may stay wrong.

    A protocol number that means nothing in the family of `packet` has nothing to be judged by either.
    """
    if not seen.packets or verify_packet(packet) or proto_of(packet) in (ONLY_IPV6 if packet[0] >> 4 == 4 else {ICMP4}):
        return []
    return [fault for each in seen.packets for fault in verify_packet(each)]


def proto_of(packet: bytes) -> int:
    return parse4(packet).proto if packet[0] >> 4 == 4 else parse6(packet).proto


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=10_000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the generator (default: %(default)s)")
    parser.add_argument("--xdp", action="store_true", help="with sg_xdp in front of sg_tc")
    options = parser.parse_args()
    with LiveGateway(xdp=options.xdp) as gateway:
        tally = run(gateway, options.packets, options.seed)
    for fault in tally.faults:
        print(fault)
    print(f"{tally.packets} packets in, {tally.sent} out, {len(tally.faults)} faults")
    for reason, count in tally.kinds.most_common():
        print(f"{count:10} {reason}")
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
