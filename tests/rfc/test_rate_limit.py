"""RFC 1812 4.3.2.8, RFC 4443 2.4 (f): the gateway's own ICMP errors are limited, for each source by itself."""

from __future__ import annotations

import pytest

from tests.rfc.cases.base import H4, NODE, S6, ip4, ip6, udp
from tests.rfc.conftest import skip_unless_live
from tests.rfc.live import LiveGateway

BURST, SENT = 5, 60


@pytest.mark.parametrize("family", [4, 6])
def test_own_errors_are_limited_per_source(family: int) -> None:
    skip_unless_live()
    with LiveGateway(icmp_rate=1, icmp_burst=BURST) as gateway:
        gateway.configure(NODE)
        for last in (7, 8):
            seen = [gateway.translate(_dying(family, last)) for _ in range(SENT)]
            answered = sum(len(each.packets) for each in seen)
            # The burst, and what comes back at one a second while this runs.
            assert BURST <= answered <= SENT // 2, f"source {last}"
            assert {each.reason for each in seen} <= {"DROP_TTL", "DROP_RATE"}
            assert [each.packets for each in seen[:BURST]].count(()) == 0


def test_rate_0_sends_none() -> None:
    skip_unless_live()
    with LiveGateway(icmp_rate=0, icmp_burst=BURST) as gateway:
        gateway.configure(NODE)
        assert [gateway.translate(_dying(6, 7)).packets for _ in range(3)] == [(), (), ()]


def _dying(family: int, last: int) -> bytes:
    """A packet whose TTL ends here, of the host numbered `last`."""
    if family == 4:
        src = f"198.51.100.{last}"
        return ip4(udp(src, H4), src=src, ttl=1)
    src = f"2001:db8:1c0:{last:x}:1::"  # of another /64: IPv6 sources may count by network
    return ip6(udp(src, S6), src=src, hlim=1)
