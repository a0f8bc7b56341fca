"""Addresses and prefixes as users write them, with one sentence for each way to get one wrong.

Python accepts more than Kubernetes does (netmasks, scope ids, integers); these types accept what both do, so that
the same file means the same with and without an API server.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PREFIX_LENGTHS_6052 = (32, 40, 48, 56, 64, 96)
WELL_KNOWN_PREFIX = IPv6Network("64:ff9b::/96")
U_OCTET = 0xFF << 56  # bits 64 to 71 of an IPv6 address (RFC 6052 2.2)
MAX_SHOWN = 80

_DIGITS4 = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}")
_DIGITS6 = re.compile(r"[0-9A-Fa-f:.]{2,45}")
_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}")
_BROADCAST = IPv4Address("255.255.255.255")
_UNICAST = "must be unicast, not unspecified, loopback, link-local, multicast or broadcast"
_FAMILY = {4: "an IPv4", 6: "an IPv6"}

# 127/8 and friends never come from, or go to, the other side of a gateway (RFC 6890 "global" false, RFC 6052 3.1).
NON_GLOBAL_IPV4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
)


def shown(value: object) -> str:
    """`value` for a sentence: one line, at most MAX_SHOWN characters."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def _wrong(expected: str, found: object) -> ValueError:
    return ValueError(f"must be {expected}, found {shown(found)}")


def parse_address(value: Any, versions: tuple[int, ...] = (4, 6)) -> Address:
    """The address in `value`, of one of `versions`; ValueError with a sentence for anything else.

    Scope ids and IPv4-mapped IPv6 addresses are refused, as the API server's isIP() does.
    """
    expected = " or ".join(_FAMILY[version] for version in versions) + " address"
    if isinstance(value, Address) and value.version in versions:
        return value
    if not isinstance(value, str) or not (_DIGITS4.fullmatch(value) or _DIGITS6.fullmatch(value)):
        raise _wrong(expected, value)
    try:
        address = ip_address(value)
    except ValueError:
        raise _wrong(expected, value) from None
    if address.version not in versions or (address.version == 6 and address.ipv4_mapped is not None):
        raise _wrong(expected, value)
    return address


def parse_network(value: Any, versions: tuple[int, ...] = (4, 6)) -> Network:
    """The CIDR in `value`, without host bits; ValueError with a sentence for anything else."""
    expected = " or ".join(_FAMILY[version] for version in versions) + " CIDR"
    if isinstance(value, Network) and value.version in versions:
        return value
    text, slash, length = value.partition("/") if isinstance(value, str) else ("", "", "")
    if not slash or not _LENGTH.fullmatch(length):
        raise _wrong(expected, value)
    try:
        address = parse_address(text, versions)
    except ValueError:
        raise _wrong(expected, value) from None
    if int(length) > address.max_prefixlen:
        raise _wrong(expected, value)
    network: Network
    if isinstance(address, IPv4Address):
        network = IPv4Network((int(address), int(length)), strict=False)
    else:
        network = IPv6Network((int(address), int(length)), strict=False)
    if network.network_address != address:
        raise ValueError(f"must have no bits beyond its length ({network}), found {shown(value)}")
    return network


def _unicast(address: Address, value: object) -> None:
    """Refuses what can be nobody's address on a network; the same as isGlobalUnicast() of the API server."""
    special = address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local
    if special or address == _BROADCAST:
        raise ValueError(f"{_UNICAST}, found {shown(str(value))}")


def parse_unicast_address(value: Any, versions: tuple[int, ...] = (4, 6)) -> Address:
    """An address that a host can have."""
    address = parse_address(value, versions)
    _unicast(address, value)
    return address


def parse_unicast_network(value: Any, versions: tuple[int, ...] = (4, 6)) -> Network:
    """A CIDR that begins with an address that a host can have."""
    network = parse_network(value, versions)
    _unicast(network.network_address, value)
    return network


def parse_prefix_6052(value: Any) -> IPv6Network:
    """A translation prefix: length 32, 40, 48, 56, 64 or 96, bits 64 to 71 zero (RFC 6052 2.2)."""
    network = parse_unicast_network(value, (6,))
    assert isinstance(network, IPv6Network)
    if network.prefixlen not in PREFIX_LENGTHS_6052:
        raise ValueError(f"must be of length 32, 40, 48, 56, 64 or 96, found {shown(str(value))}")
    if int(network.network_address) & U_OCTET:
        raise ValueError(f"must have bits 64 to 71 zero (RFC 6052 2.2), found {shown(str(value))}")
    return network


def embed(prefix: IPv6Network, address: IPv4Address) -> IPv6Address:
    """`address` represented under `prefix`, RFC 6052 2.2: its bits follow the prefix and step over the u octet."""
    if prefix.prefixlen == 96:
        return IPv6Address(int(prefix.network_address) | int(address))
    bits = int(address) << (96 - prefix.prefixlen)
    above_u = bits >> 64 << 64
    below_u = (bits & ((1 << 64) - 1)) >> 8
    return IPv6Address(int(prefix.network_address) | above_u | below_u)


def extract(prefix: IPv6Network, address: IPv6Address) -> IPv4Address:
    """The IPv4 address that `address` represents under `prefix`: the inverse of `embed`."""
    if prefix.prefixlen == 96:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    above_u = int(address) >> 64 << 64
    below_u = (int(address) & ((1 << 56) - 1)) << 8
    return IPv4Address((above_u | below_u) >> (96 - prefix.prefixlen) & 0xFFFFFFFF)


def is_global_ipv4(network: IPv4Network) -> bool:
    """Whether no address of `network` is special (RFC 6890); RFC 6052 3.1 keeps the others out of 64:ff9b::/96."""
    return not any(network.overlaps(special) for special in NON_GLOBAL_IPV4)


def _cidr_schema(versions: tuple[int, ...], extra: tuple[tuple[str, str], ...] = ()) -> dict[str, Any]:
    family = "" if len(versions) > 1 else f" && cidr(self).ip().family() == {versions[0]}"
    name = " or ".join(_FAMILY[version] for version in versions)
    rules = [
        (f"isCIDR(self){family}", f"must be {name} CIDR"),
        ("!isCIDR(self) || cidr(self) == cidr(self).masked()", "must have no bits beyond its length"),
        *extra,
    ]
    return {
        "type": "string",
        "minLength": 3,
        "maxLength": 18 if versions == (4,) else 43,
        "x-kubernetes-validations": [_told(rule, message) for rule, message in rules],
    }


def _address_schema(versions: tuple[int, ...], extra: tuple[tuple[str, str], ...] = ()) -> dict[str, Any]:
    family = "" if len(versions) > 1 else f" && ip(self).family() == {versions[0]}"
    name = " or ".join(_FAMILY[version] for version in versions)
    return {
        "type": "string",
        "minLength": 2,
        "maxLength": 15 if versions == (4,) else 39,
        "x-kubernetes-validations": [
            _told(rule, message) for rule, message in ((f"isIP(self){family}", f"must be {name} address"), *extra)
        ],
    }


def _told(rule: str, message: str) -> dict[str, str]:
    """A rule of one text, which is shown; the API server says no more than "string" by itself."""
    return {"rule": rule, "message": message, "messageExpression": f"'{message}, found ' + self"}


_TEXT = PlainSerializer(str, return_type=str)
# The first addresses of the /72 and of the /64 around it are the same where bits 64 to 71 are zero.
_UNICAST_ADDRESS_CEL = (("!isIP(self) || ip(self).isGlobalUnicast()", _UNICAST),)
_UNICAST_CIDR_CEL = (("!isCIDR(self) || cidr(self).ip().isGlobalUnicast()", _UNICAST),)
_U_OCTET_CEL = (
    "!isCIDR(self) || !self.endsWith('/96') || "
    "cidr(self.replace('/96', '/72')).masked().ip() == cidr(self.replace('/96', '/64')).masked().ip()"
)

Ipv4 = Annotated[
    IPv4Address,
    BeforeValidator(lambda v: parse_unicast_address(v, (4,))),
    _TEXT,
    WithJsonSchema(_address_schema((4,), _UNICAST_ADDRESS_CEL)),
]
Ipv6 = Annotated[
    IPv6Address,
    BeforeValidator(lambda v: parse_unicast_address(v, (6,))),
    _TEXT,
    WithJsonSchema(_address_schema((6,), _UNICAST_ADDRESS_CEL)),
]
HostAddress = Annotated[
    Address,
    BeforeValidator(parse_unicast_address),
    _TEXT,
    WithJsonSchema(_address_schema((4, 6), _UNICAST_ADDRESS_CEL)),
]
AnyAddress = Annotated[Address, BeforeValidator(parse_address), _TEXT, WithJsonSchema(_address_schema((4, 6)))]
Ipv4Cidr = Annotated[
    IPv4Network, BeforeValidator(lambda v: parse_network(v, (4,))), _TEXT, WithJsonSchema(_cidr_schema((4,)))
]
Ipv6Cidr = Annotated[
    IPv6Network, BeforeValidator(lambda v: parse_network(v, (6,))), _TEXT, WithJsonSchema(_cidr_schema((6,)))
]
HostIpv4Cidr = Annotated[
    IPv4Network,
    BeforeValidator(lambda v: parse_unicast_network(v, (4,))),
    _TEXT,
    WithJsonSchema(_cidr_schema((4,), _UNICAST_CIDR_CEL)),
]
HostIpv6Cidr = Annotated[
    IPv6Network,
    BeforeValidator(lambda v: parse_unicast_network(v, (6,))),
    _TEXT,
    WithJsonSchema(_cidr_schema((6,), _UNICAST_CIDR_CEL)),
]
AnyCidr = Annotated[Network, BeforeValidator(parse_network), _TEXT, WithJsonSchema(_cidr_schema((4, 6)))]
Prefix6052 = Annotated[
    IPv6Network,
    BeforeValidator(parse_prefix_6052),
    _TEXT,
    WithJsonSchema(
        _cidr_schema(
            (6,),
            (
                *_UNICAST_CIDR_CEL,
                (
                    "!isCIDR(self) || cidr(self).prefixLength() in [32, 40, 48, 56, 64, 96]",
                    "must be of length 32, 40, 48, 56, 64 or 96 (RFC 6052 2.2)",
                ),
                (_U_OCTET_CEL, "must have bits 64 to 71 zero (RFC 6052 2.2)"),
            ),
        )
    ),
]
