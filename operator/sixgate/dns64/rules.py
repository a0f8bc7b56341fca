"""What RFC 6147 asks of an answer and unbound's own dns64 module does not do. Pure: records in, records out.

This file is copied beside the resolver and runs inside it, in the Python of the system: it imports the standard
library and nothing else. Names and record data are in wire form, TTLs in seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

A, CNAME, SOA, AAAA, DNAME = 1, 5, 6, 28, 39
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3
NO_SOA_TTL_S = 600  # RFC 6147 5.1.7
MAX_CHAIN = 32
WELL_KNOWN = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True)
class Rrset:
    """Records of one name and type. `rdatas` and `ttls` hold the records and, after them, their signatures."""

    name: bytes
    rtype: int
    ttls: tuple[int, ...]
    rdatas: tuple[bytes, ...]
    signatures: int = 0

    @property
    def records(self) -> tuple[bytes, ...]:
        return self.rdatas[: len(self.rdatas) - self.signatures]

    def texts(self) -> list[str]:
        """The records in the form of RFC 3597, which needs to know no type."""
        plain = len(self.rdatas) - self.signatures
        return [
            f"{name_text(self.name)} {ttl} IN TYPE{self.rtype if number < plain else 46} \\# {len(rdata)} {rdata.hex()}"
            for number, (ttl, rdata) in enumerate(zip(self.ttls, self.rdatas, strict=True))
        ]


@dataclass(frozen=True)
class Prefix:
    """A prefix of RFC 6052 2.2; `places` are the octets of an address under it that hold the IPv4 address."""

    octets: bytes
    places: tuple[int, ...]
    is_well_known: bool

    @staticmethod
    def of(text: str) -> Prefix:
        network = IPv6Network(text)
        first = network.prefixlen // 8
        places = tuple(place for place in range(first, 16) if place != 8 or first == 12)[:4]
        return Prefix(network.network_address.packed, places, network == WELL_KNOWN)

    def embed(self, ipv4: bytes) -> bytes:
        """4 octets under this prefix, stepping over bits 64 to 71."""
        octets = bytearray(self.octets)
        for place, octet in zip(self.places, ipv4, strict=True):
            octets[place] = octet
        return bytes(octets)

    def extract(self, ipv6: bytes) -> bytes:
        """The inverse of `embed`, of 16 octets."""
        return bytes([ipv6[place] for place in self.places])


class Networks:
    """A set of networks of one family, asked often: addresses are octets."""

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network]) -> None:
        self._pairs = tuple((int(network.network_address), int(network.netmask)) for network in networks)

    def __contains__(self, address: bytes) -> bool:
        value = int.from_bytes(address, "big")
        return any(value & mask == network for network, mask in self._pairs)


@dataclass(frozen=True)
class Rules:
    """What one resolver synthesises, in the order of the longest match; `never` are domains in lower-case wire form.

    `made_under` is the prefix that the resolver itself embeds IPv4 addresses in before `synthesize` sees them.
    """

    made_under: Prefix
    prefixes: tuple[tuple[Networks, tuple[Prefix, ...]], ...]
    exclude_ipv6: Networks
    exclude_ipv4: Networks
    not_global: Networks
    never: tuple[bytes, ...]

    @staticmethod
    def from_json(text: str) -> Rules:
        raw = json.loads(text)
        ranges = [(IPv4Network(item["ipv4"]), tuple(map(Prefix.of, item["ipv6"]))) for item in raw["prefixes"]]
        ranges.sort(key=lambda item: -item[0].prefixlen)
        return Rules(
            made_under=Prefix.of(raw["madeUnder"]),
            prefixes=tuple((Networks([network]), prefixes) for network, prefixes in ranges),
            exclude_ipv6=Networks(map(IPv6Network, raw["excludeIPv6"])),
            exclude_ipv4=Networks(map(IPv4Network, raw["excludeIPv4"])),
            not_global=Networks(map(IPv4Network, raw["notGlobal"])),
            never=tuple(wire_name(item) for item in raw["never"]),
        )

    def represent(self, ipv4: bytes) -> tuple[bytes, ...]:
        """The address under the prefixes of its range; empty where it is in none, or excluded.

        Under 64:ff9b::/96 only global addresses are represented (RFC 6052 3.1).
        """
        if ipv4 in self.exclude_ipv4:
            return ()
        for network, prefixes in self.prefixes:
            if ipv4 in network:
                wanted = (prefix for prefix in prefixes if not (prefix.is_well_known and ipv4 in self.not_global))
                return tuple(prefix.embed(ipv4) for prefix in wanted)
        return ()

    def spares(self, name: bytes) -> bool:
        """Whether `name` is in a domain that never gets synthesised records."""
        name = name.lower()
        return any(name.endswith(domain) and _at_label(name, len(name) - len(domain)) for domain in self.never)


@dataclass(frozen=True)
class Finding:
    """What an answer to AAAA means. `answer` replaces its answer section where it is not None.

    `synthesize` asks for AAAA records made of A records, with TTLs of at most `limit_s`; `soa` is what the negative
    answer brought along, `a_failed` whether the question for A has failed since.
    """

    synthesize: bool
    answer: tuple[Rrset, ...] | None = None
    limit_s: int = NO_SOA_TTL_S
    soa: tuple[Rrset, ...] = ()
    a_failed: bool = False


KEEP = Finding(False)


def examine(rules: Rules, qname: bytes, rcode: int, answer: tuple[Rrset, ...], authority: tuple[Rrset, ...]) -> Finding:
    """RFC 6147 5.1.1 to 5.1.4, of a validated answer: what is to become of it."""
    if rcode == NXDOMAIN or any(rules.spares(name) for name in chain(qname, answer)):
        return KEEP
    if rcode != NOERROR:  # 5.1.2: any other error, and no answer at all, count as an empty answer
        return Finding(True)
    found = [rrset for rrset in answer if rrset.rtype == AAAA]
    wanted = tuple(_without_excluded(rules, rrset) for rrset in found)
    if any(rrset.records for rrset in wanted):
        if wanted == tuple(found):
            return KEEP
        others = tuple(rrset for rrset in answer if rrset.rtype != AAAA)
        return Finding(False, others + tuple(rrset for rrset in wanted if rrset.records))
    soa = tuple(rrset for rrset in authority if rrset.rtype == SOA)
    limit = min((min(rrset.ttls) for rrset in soa), default=NO_SOA_TTL_S)
    return Finding(True, tuple(rrset for rrset in answer if rrset.rtype != AAAA) if found else None, limit, soa)


def synthesize(rules: Rules, finding: Finding, answer: tuple[Rrset, ...]) -> tuple[Rrset, ...]:
    """The answer section with the AAAA records of the resolver put under the right prefixes (RFC 6147 5.1.7).

    It has no AAAA record where none of the addresses may be represented.
    """
    made = []
    for rrset in answer:
        if rrset.rtype != AAAA:
            made.append(rrset)
            continue
        ttl = min((*rrset.ttls, finding.limit_s))
        found = [made for rdata in rrset.records for made in rules.represent(rules.made_under.extract(rdata))]
        rdatas = tuple(dict.fromkeys(found))
        if rdatas:
            made.append(Rrset(rrset.name, AAAA, (ttl,) * len(rdatas), rdatas))
    return tuple(made)


def chain(qname: bytes, answer: Iterable[Rrset]) -> tuple[bytes, ...]:
    """`qname` and the names that CNAME records lead it to."""
    aliases = {rrset.name.lower(): rrset.records[0] for rrset in answer if rrset.rtype == CNAME and rrset.records}
    names = [qname]
    while len(names) < MAX_CHAIN and names[-1].lower() in aliases:
        names.append(aliases[names[-1].lower()])
    return tuple(names)


def _without_excluded(rules: Rules, rrset: Rrset) -> Rrset:
    """`rrset` without excluded addresses; its signatures go with the first of them, as they would not fit any more."""
    kept = [
        (ttl, rdata) for ttl, rdata in zip(rrset.ttls, rrset.records, strict=False) if rdata not in rules.exclude_ipv6
    ]
    if len(kept) == len(rrset.records):
        return rrset
    return Rrset(rrset.name, rrset.rtype, tuple(ttl for ttl, _ in kept), tuple(rdata for _, rdata in kept))


def wire_name(text: str) -> bytes:
    """A domain name without escapes in lower-case wire form."""
    labels = [label.encode("ascii") for label in text.lower().rstrip(".").split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def name_text(name: bytes) -> str:
    """A name in wire form as a master file writes it; octets that could mean something there are escaped."""
    place, labels = 0, []
    while place < len(name) and name[place]:
        label = name[place + 1 : place + 1 + name[place]]
        if label.isalnum() and label.isascii():
            labels.append(label.decode("ascii"))
        else:
            labels.append("".join(chr(octet) if _is_plain(octet) else f"\\{octet:03d}" for octet in label))
        place += 1 + name[place]
    return ".".join(labels) + "."


def _is_plain(octet: int) -> bool:
    return 48 <= octet <= 57 or 65 <= octet <= 90 or 97 <= octet <= 122 or octet in b"-_"


def _at_label(name: bytes, offset: int) -> bool:
    """Whether a label of `name` begins at `offset`."""
    place = 0
    while place < offset and name[place]:
        place += 1 + name[place]
    return place == offset
