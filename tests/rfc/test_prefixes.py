"""RFC 6052 2.2: which prefixes a NAT46Gateway takes."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from sixgate.api.addr import Prefix6052

PREFIX = TypeAdapter(Prefix6052)


@pytest.mark.parametrize("length", range(129))
def test_only_the_six_lengths_are_taken(length: int) -> None:
    text = f"::/{length}" if length == 0 else f"2000::/{length}"
    if length in (32, 40, 48, 56, 64, 96):
        assert PREFIX.validate_python(text).prefixlen == length
    else:
        with pytest.raises(ValidationError):
            PREFIX.validate_python(text)


@pytest.mark.parametrize("octet", [0x01, 0x80, 0xFF])
def test_a_prefix_with_a_u_octet_is_refused(octet: int) -> None:
    with pytest.raises(ValidationError):
        PREFIX.validate_python(f"2001:db8:0:0:{octet:02x}00::/96")
    assert PREFIX.validate_python("2001:db8:0:0:ff::/96").prefixlen == 96


@pytest.mark.parametrize("prefix", ["64:ff9b:1::/48", "64:ff9b:1:fffe::/64", "64:ff9b:1:fffe::/96", "64:ff9b::/96"])
def test_well_known_and_local_prefixes_are_taken(prefix: str) -> None:
    assert str(PREFIX.validate_python(prefix)) == prefix
