"""BIGTCPPolicies of one node, as sizes of devices in the order in which they count."""

from __future__ import annotations

from sixgate.api.bigtcppolicy import MIN_SIZE_BYTES, BigTcpFamilySpec, BIGTCPPolicy
from sixgate.plan.nodeplan import BigTcpPlan


def big_tcp(policies: tuple[BIGTCPPolicy, ...]) -> tuple[BigTcpPlan, ...]:
    """The highest priority first, of equal ones the oldest; `policies` come by age."""
    ranked = sorted(policies, key=lambda policy: -policy.spec.priority)
    return tuple(
        BigTcpPlan(
            owner=policy.ref,
            include=policy.spec.devices.include,
            exclude=policy.spec.devices.exclude,
            ipv6_size=_size(policy.spec.ipv6),
            ipv4_size=_size(policy.spec.ipv4),
            pods=policy.spec.pods,
        )
        for policy in ranked
    )


def _size(family: BigTcpFamilySpec | None) -> int | None:
    if family is None:
        return None
    return family.max_size if family.enabled else MIN_SIZE_BYTES
