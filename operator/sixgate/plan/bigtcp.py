"""BIGTCPPolicies of one node, as sizes of devices in the order in which they count."""

from __future__ import annotations

from dataclasses import replace

from sixgate.api.bigtcppolicy import MIN_SIZE_BYTES, BigTcpFamilySpec, BIGTCPPolicy
from sixgate.plan.nodeplan import AttachmentPlan, BigTcpPlan, Feature, NodePlan

_FORWARDING = frozenset({"sg_uplink_tc", "sg_pod_tc", "sg_wire_tc"})  # programs that forward as sg_fwd does


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
            forwarding=policy.spec.forwarding,
        )
        for policy in ranked
    )


def forwards_big(plans: tuple[BigTcpPlan, ...]) -> bool:
    """Whether a policy may want IPv6 super-packets of more than 64 KB to be forwarded by BPF."""
    return any((item.ipv6_size or 0) > MIN_SIZE_BYTES and item.forwarding != "Kernel" for item in plans)


def with_forwarding(plan: NodePlan) -> NodePlan:
    """The same node, whose program on tc-ingress also forwards IPv6 super-packets: there is one program per hook."""
    assert plan.config is not None  # a node without programs has no such hook
    objects = tuple(replace(item, attachments=tuple(map(_forwarding, item.attachments))) for item in plan.objects)
    config = replace(plan.config, features=plan.config.features | Feature.BIG_FORWARD)
    return replace(plan, objects=objects, config=config)


def _forwarding(attachment: AttachmentPlan) -> AttachmentPlan:
    if attachment.program not in _FORWARDING:
        return attachment
    done = f"{attachment.super_packets}AndForwarded" if attachment.super_packets else "Forwarded"
    return replace(attachment, super_packets=done)


def _size(family: BigTcpFamilySpec | None) -> int | None:
    if family is None:
        return None
    return family.max_size if family.enabled else MIN_SIZE_BYTES
