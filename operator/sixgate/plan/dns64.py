"""What the resolver of a gateway is to do: plain values that templates write down without deciding anything."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from sixgate.api.addr import NON_GLOBAL_IPV4, embed
from sixgate.api.base import UserObject
from sixgate.api.nat46gateway import NAT46Gateway
from sixgate.errors import Problem, Ref

MAPPED = IPv6Network("::ffff:0:0/96")
ANY_IPV4 = IPv4Network("0.0.0.0/0")
UNFIT_NAME = "UnfitName"
MAX_NAME = 63  # a label of Kubernetes and of the DNS: the gateway's name is both
WELL_KNOWN_IPV4 = (IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171"))  # RFC 7050 2.2


@dataclass(frozen=True, slots=True)
class RangePrefixes:
    """One range of IPv4 addresses and the prefixes that represent it, in the order of the object."""

    ipv4: str
    ipv6: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dns64Plan:
    """One resolver; addresses, networks and names as text.

    `made_under` is the prefix of unbound's own module, before the rules choose the right one. `discovery` are the
    answers to AAAA of ipv4only.arpa, `reverse` the zones of ip6.arpa that the prefixes cover.
    """

    owner: Ref
    made_under: str
    ranges: tuple[RangePrefixes, ...]
    exclude_ipv6: tuple[str, ...]
    exclude_ipv4: tuple[str, ...]
    not_global: tuple[str, ...]
    never: tuple[str, ...]
    upstreams: tuple[tuple[str, int], ...]
    clients: tuple[str, ...]
    listen: tuple[str, ...]
    validate: bool
    discovery: tuple[str, ...]
    reverse: tuple[str, ...]


def dns64_plan(gateway: NAT46Gateway) -> Dns64Plan | None:
    """The resolver of `gateway`; None where it wants none."""
    spec = gateway.spec.dns64
    if spec is None:
        return None
    pairs = [(item.ipv4_cidr, item.prefix) for item in spec.prefixes]
    if not pairs and gateway.spec.prefix is not None:
        pairs = [(ANY_IPV4, gateway.spec.prefix)]
    ranges: dict[IPv4Network, list[IPv6Network]] = {}
    for network, prefix in pairs:
        ranges.setdefault(network, []).append(prefix)
    prefixes = tuple(dict.fromkeys(prefix for _, prefix in pairs))
    return Dns64Plan(
        owner=gateway.ref,
        made_under=str(prefixes[0]),
        ranges=tuple(RangePrefixes(str(network), tuple(map(str, listed))) for network, listed in ranges.items()),
        exclude_ipv6=tuple(dict.fromkeys(map(str, (MAPPED, *spec.exclude_ipv6_cidrs)))),
        exclude_ipv4=tuple(map(str, spec.exclude_ipv4_cidrs)),
        not_global=tuple(map(str, NON_GLOBAL_IPV4)),
        never=tuple(dict.fromkeys(name.lower().rstrip(".") for name in spec.never_synthesize)),
        upstreams=tuple((str(item.address), item.port) for item in spec.upstreams),
        clients=tuple(map(str, spec.client_cidrs)),
        listen=tuple(map(str, spec.listen_addresses)),
        validate=spec.validate_dnssec,
        discovery=tuple(str(embed(prefix, address)) for prefix in prefixes for address in WELL_KNOWN_IPV4),
        reverse=tuple(reverse_zone(prefix) for prefix in prefixes),
    )


def cluster_resolvers(
    objects: Iterable[UserObject], admitted: Collection[Ref]
) -> tuple[tuple[Dns64Plan, ...], tuple[Problem, ...]]:
    """The resolvers of a cluster, one for each of the `admitted` gateways that wants one, oldest first.

    They do not come and go with the gateway's nodes, as standalone ones do: who asks for names must get answers also
    while no node is there to translate. Each takes questions at all addresses of its pod.
    """
    plans: list[Dns64Plan] = []
    problems: list[Problem] = []
    for item in sorted(objects, key=lambda item: item.age_key):
        made = dns64_plan(item) if isinstance(item, NAT46Gateway) and item.ref in admitted else None
        if made is None:
            continue
        if len(item.ref.name) > MAX_NAME or "." in item.ref.name:
            text = f"{item.ref} has spec.dns64, whose resolver is found by the name of the gateway as a label: "
            text += f"at most {MAX_NAME} characters and no dot"
            problems.append(Problem(item.ref, UNFIT_NAME, text, "metadata.name"))
        else:
            plans.append(replace(made, listen=()))
    return tuple(plans), tuple(problems)


def reverse_zone(prefix: IPv6Network) -> str:
    """The zone of ip6.arpa that holds the names of `prefix`, whose length is a multiple of four."""
    nibbles = prefix.network_address.exploded.replace(":", "")[: prefix.prefixlen // 4]
    return ".".join(reversed(nibbles)) + ".ip6.arpa"
