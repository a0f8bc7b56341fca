"""BIGTCPPolicy: how large TCP super-packets may be, per node, family and device."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sixgate.api.base import (
    OBJECT,
    SET,
    Column,
    DevicePattern,
    KindInfo,
    KindSpec,
    Rule,
    Spec,
    StrictBool,
    StrictInt,
    UserObject,
    standing,
)

MIN_SIZE_BYTES = 65536  # the kernel's default; less is not BIG TCP
MAX_SIZE_BYTES = 524280  # GSO_MAX_SIZE of the kernel: 8 * 65535


class BigTcpFamilySpec(Spec):
    """BIG TCP of one family."""

    enabled: StrictBool = Field(default=True, description="False keeps this family at the kernel's 64 KB.")
    max_size: Annotated[StrictInt, Field(ge=MIN_SIZE_BYTES, le=MAX_SIZE_BYTES)] = Field(
        default=196608, description="Largest super-packet, bytes; each device's own maximum bounds it further."
    )


class DevicesSpec(Spec):
    """Devices by name."""

    include: tuple[DevicePattern, ...] = Field(
        default=("auto",),
        min_length=1,
        max_length=32,
        description="Devices that are set: names, shell patterns, or `auto` for every uplink and what carries it.",
        json_schema_extra=SET,
    )
    exclude: tuple[DevicePattern, ...] = Field(
        default=(), max_length=32, description="Devices that are left alone.", json_schema_extra=SET
    )


def _some_family(spec: Any) -> bool:
    return any(family is not None and family.enabled for family in (spec.ipv6, spec.ipv4))


class BIGTCPPolicySpec(KindSpec):
    """Sizes, and where they hold."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.ipv6) && (!has(self.ipv6.enabled) || self.ipv6.enabled)) || "
            "(has(self.ipv4) && (!has(self.ipv4.enabled) || self.ipv4.enabled))",
            "at least one of ipv6 and ipv4 must be given and enabled",
            _some_family,
        ),
    )

    priority: Annotated[StrictInt, Field(ge=0, le=1000)] = Field(
        default=100, description="Of two policies for one device the higher counts; equal ones conflict."
    )
    ipv6: BigTcpFamilySpec | None = Field(default=None, description="BIG TCP for IPv6 (Linux 5.19 and newer).")
    ipv4: BigTcpFamilySpec | None = Field(default=None, description="BIG TCP for IPv4 (Linux 6.3 and newer).")
    devices: DevicesSpec = Field(
        default_factory=DevicesSpec, description="Devices of the node that are set.", json_schema_extra=OBJECT
    )
    pods: Literal["Off", "HostSide", "Live"] = Field(
        default="Off",
        description="Pods on the node: left alone, set at the host's end of their devices, or live at both ends.",
    )
    forwarding: Literal["Auto", "Redirect", "Kernel"] = Field(
        default="Auto",
        description="IPv6 super-packets of more than 64 KB that the node forwards, which its kernel would drop: Auto "
        "redirects them in BPF where netfilter has no rules for forwarded IPv6 packets, Redirect does so past any such "
        "rules, Kernel keeps devices that forward at 64 KB.",
    )


class BIGTCPPolicy(UserObject):
    """BIG TCP on selected nodes and devices."""

    info: ClassVar[KindInfo] = KindInfo(
        plural="bigtcppolicies",
        singular="bigtcppolicy",
        short="bigtcp",
        columns=(
            Column("IPv6", ".spec.ipv6.maxSize", "integer", description="Largest IPv6 super-packet, bytes"),
            Column("IPv4", ".spec.ipv4.maxSize", "integer", description="Largest IPv4 super-packet, bytes"),
            Column("Pods", ".spec.pods", description="What is set for pods"),
            Column("Priority", ".spec.priority", "integer", priority=1),
            *standing("Nodes that have the sizes"),
        ),
    )

    api_version: Literal["sixgate.io/v1alpha1"]
    kind: Literal["BIGTCPPolicy"]
    spec: BIGTCPPolicySpec = Field(description="What is wanted.")
