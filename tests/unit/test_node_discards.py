"""Discarded packets as lines of the log: the sentence, and how many there are."""

from __future__ import annotations

from typing import Any

import pytest

from sixgate.errors import BpfError
from sixgate.node.bpf.codec import encode
from sixgate.node.bpf.layouts import SG_EVENT, SgReason
from sixgate.node.discards import LineBound, read_discard

EVENT: dict[str, Any] = {
    "time_ns": 100_000_000_000,
    "saddr": "192.0.2.9",
    "daddr": "198.51.100.20",
    "sport": 4000,
    "dport": 53,
    "ifindex": 7,
    "reason": SgReason.SG_DROP_UDP_ZERO,
    "proto": 17,
}
FRAGMENT = {
    **EVENT,
    "saddr": "2001:db8::1",
    "daddr": "2001:db8:64::c633:6414",
    "sport": 0,
    "dport": 0,
    "reason": SgReason.SG_DROP_FRAGMENT_EXTHDR,
    "proto": 60,
}


def sentence(event: dict[str, Any], now_s: float = 100.5) -> str:
    return str(read_discard(encode(SG_EVENT, event), {7: "eth0"}.__getitem__, now_s))


@pytest.mark.parametrize(
    ("event", "said"),
    [
        pytest.param(
            EVENT,
            "Packet dropped: SG_DROP_UDP_ZERO (RFC 7915 4.5: IPv4 UDP without checksum): "
            "UDP from 192.0.2.9 port 4000 to 198.51.100.20 port 53 on eth0.",
            id="rfc7915 4.5: addresses and ports of UDP without a checksum",
        ),
        pytest.param(
            FRAGMENT,
            "Packet dropped: SG_DROP_FRAGMENT_EXTHDR (RFC 7915 5.1.1: extension header behind the fragment header): "
            "protocol 60 from 2001:db8::1 to 2001:db8:64::c633:6414 on eth0.",
            id="rfc7915 5.1.1: a fragment whose ports nobody looked for",
        ),
        pytest.param(
            {**EVENT, "reason": 999},
            "Packet dropped: reason 999: UDP from 192.0.2.9 port 4000 to 198.51.100.20 port 53 on eth0.",
            id="a reason of a newer data plane",
        ),
        pytest.param(
            {**EVENT, "reason": SgReason.SG_REASON_MAX, "sport": 0},
            "Packet dropped: SG_REASON_MAX: UDP from 192.0.2.9 port 0 to 198.51.100.20 port 53 on eth0.",
            id="a reason without a meaning",
        ),
    ],
)
def test_the_sentence(event: dict[str, Any], said: str) -> None:
    assert sentence(event) == said


def test_what_nobody_read_for_a_while_says_so() -> None:
    assert sentence(EVENT, now_s=161.7).endswith(" on eth0, 62 s ago.")


def test_fields_say_the_same() -> None:
    discard = read_discard(encode(SG_EVENT, EVENT), {7: "eth0"}.__getitem__, 0.0)

    assert discard.fields() == {
        "reason": "SG_DROP_UDP_ZERO",
        "saddr": "192.0.2.9",
        "daddr": "198.51.100.20",
        "sport": 4000,
        "dport": 53,
        "protocol": "UDP",
        "device": "eth0",
    }
    assert discard.age_s == 0, "a clock that is behind makes no packet of the future"


@pytest.mark.parametrize("change", [-8, 8])
def test_a_record_of_another_version_is_refused(change: int) -> None:
    with pytest.raises(
        BpfError, match=rf"in {SG_EVENT.size + change} bytes, where this version reads {SG_EVENT.size};"
    ):
        read_discard(bytes(SG_EVENT.size + change), str, 0.0)


def test_lines_are_bounded_and_the_rest_is_counted() -> None:
    bound = LineBound(lines=3, period_s=10)

    assert [bound.admit(5.0 + step / 10) for step in range(5)] == [True, True, True, False, False]
    assert bound.admit(14.9) is False
    assert bound.take_withheld() == 3
    assert bound.take_withheld() == 0


def test_a_period_begins_with_its_first_line() -> None:
    bound = LineBound(lines=1, period_s=10)

    assert bound.rest_s(0.0) == 0
    assert bound.admit(0.0)
    assert bound.rest_s(4.0) == 6
    assert bound.rest_s(10.0) == 0
    assert bound.rest_s(33.0) == 0
    assert bound.admit(33.0)
    assert not bound.admit(42.9)
    assert bound.admit(43.0)


def test_what_was_withheld_is_not_forgotten_when_a_period_begins() -> None:
    bound = LineBound(lines=1, period_s=10)

    assert [bound.admit(now_s) for now_s in (0.0, 1.0, 10.0, 11.0)] == [True, False, True, False]
    assert bound.take_withheld() == 2
