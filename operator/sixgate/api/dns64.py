"""NAT46Gateway's DNS64 (RFC 6147)."""

from __future__ import annotations

from pydantic import Field

from sixgate.api.addr import AnyAddress, AnyCidr, Ipv4Cidr, Ipv6Cidr, Prefix6052
from sixgate.api.base import SET, DomainName, Port, Spec, StrictBool, keyed_by


class Dns64PrefixSpec(Spec):
    """The prefix that represents one range of IPv4 addresses."""

    ipv4_cidr: Ipv4Cidr = Field(alias="ipv4CIDR", description="IPv4 addresses that this prefix represents.")
    prefix: Prefix6052 = Field(description="Prefix that AAAA records are made under.")


class UpstreamSpec(Spec):
    """A resolver that questions are forwarded to."""

    address: AnyAddress = Field(description="Address of the resolver.")
    port: Port = Field(default=53, description="Port of the resolver.")


class Dns64Spec(Spec):
    """AAAA records for names that have IPv4 addresses only."""

    prefixes: tuple[Dns64PrefixSpec, ...] = Field(
        default=(),
        max_length=64,
        description="Prefixes by IPv4 range, the longest match counts, and of one range every prefix; left out, "
        "spec.prefix represents all.",
        json_schema_extra=keyed_by("ipv4CIDR", "prefix"),
    )
    exclude_ipv6_cidrs: tuple[Ipv6Cidr, ...] = Field(
        default=(),
        alias="excludeIPv6CIDRs",
        max_length=64,
        description="AAAA records inside these do not count as an answer; ::ffff:0:0/96 is always among them.",
        json_schema_extra=SET,
    )
    exclude_ipv4_cidrs: tuple[Ipv4Cidr, ...] = Field(
        default=(),
        alias="excludeIPv4CIDRs",
        max_length=64,
        description="A records inside these are never turned into AAAA records.",
        json_schema_extra=SET,
    )
    upstreams: tuple[UpstreamSpec, ...] = Field(
        min_length=1,
        max_length=16,
        description="Resolvers that questions go to.",
        json_schema_extra=keyed_by("address", "port"),
    )
    client_cidrs: tuple[AnyCidr, ...] = Field(
        min_length=1,
        alias="clientCIDRs",
        max_length=64,
        description="Networks whose hosts may ask; nobody else is answered.",
        json_schema_extra=SET,
    )
    listen_addresses: tuple[AnyAddress, ...] = Field(
        default=(),
        max_length=16,
        description="Addresses that questions are taken at; left out, all of the node.",
        json_schema_extra=SET,
    )
    never_synthesize: tuple[DomainName, ...] = Field(
        default=("cluster.local",),
        max_length=64,
        description="Domains that get no synthesised records, cluster domains foremost.",
        json_schema_extra=SET,
    )
    validate_dnssec: StrictBool = Field(
        default=True,
        alias="validateDNSSEC",
        description="Whether answers are validated before records are made of them.",
    )
