"""RFC 7915 5.1, RFC 6864: packets that may be fragmented later carry identifications that tell them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.rfc.cases.base import H6, NODE, S6, ip6, udp
from tests.rfc.wire import parse4

if TYPE_CHECKING:
    from tests.rfc.live import LiveGateway

COUNT = 200


def test_identifications_differ(gateway: LiveGateway) -> None:
    gateway.ensure(NODE)
    packet = ip6(udp(H6, S6))
    seen = [parse4(gateway.translate(packet).packets[0]) for _ in range(COUNT)]
    assert not any(ip.df for ip in seen)
    # A few may meet by chance; 0 stands for none in many stacks and may be one of them.
    assert len({ip.ident for ip in seen}) > COUNT * 9 // 10
