"""The source NAT of a gateway node: every address of every pair is an object of the engine, with a pool of one address.

All gateways of an object have the same ones, whoever owns the pair at the moment: what a takeover brings finds its
place, and what drains keeps it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from sixgate.plan.egressplan import EgressPlan
from sixgate.plan.nat46 import SLOW_DEVICE, SLOW_PEER, number_of
from sixgate.plan.natplan import MAX_STATS, GatewayFlag, NatPlan
from sixgate.plan.nodeplan import AttachmentPlan, ConfigPlan, Feature, MapPlan, NodePlan, ObjectPlan
from sixgate.plan.stateful import (
    ALL_BLOCKS,
    MAX_HALF_OPEN,
    OWN_PORTS,
    PROTOCOLS,
    bare_writer,
    has_bits,
    state_maps,
)
from sixgate.plan.stateplan import ObjectStatePlan, PoolPlan, PortSpacePlan, StatefulFlag, StatefulPlan, joined

__all__ = ["object_name", "with_nat"]

LOWEST_IPV6_MTU = 1280
ENGINE = ("sg_tc", "sg_slow")  # objects that the uplinks of a gateway need


def object_name(policy: str, pair: int, family: int) -> str:
    """What the engine's number of one address is handed out by."""
    return f"EgressGateway/{policy}/{pair}/{family}"


def with_nat(made: NodePlan, policies: tuple[EgressPlan, ...], digests: Mapping[str, str]) -> NodePlan:
    """`made` with the engine for `policies`, of which the node is a gateway; one that runs already serves both."""
    mine = _state(policies, made)
    stateful = joined(made.stateful, mine)
    owners = tuple(policy.owner for policy in policies)
    has = has_bits(stateful)
    nat = made.nat or NatPlan(owners, (), (), (), 0, 0)
    nat = replace(nat, has=has, version=number_of((nat.gateways, nat.ranges, nat.generation, has)))
    features = Feature.NAT | Feature.STATEFUL
    config = made.config
    assert config is not None  # egress has given it one
    return replace(
        made,
        objects=_objects(made.objects, policies, digests, stateful),
        config=_config(config, features, stateful),
        nat=nat,
        stateful=stateful,
    )


def _config(config: ConfigPlan, features: Feature, stateful: StatefulPlan) -> ConfigPlan:
    return replace(
        config,
        features=config.features | features,
        slow_device=SLOW_DEVICE,
        slow_peer=SLOW_PEER,
        st_ids=stateful.ids,
    )


def _objects(
    objects: tuple[ObjectPlan, ...],
    policies: tuple[EgressPlan, ...],
    digests: Mapping[str, str],
    stateful: StatefulPlan,
) -> tuple[ObjectPlan, ...]:
    """The engine at the uplinks, beside what is there; its maps have the same sizes in every object."""
    owners = tuple(policy.owner for policy in policies)
    devices = tuple(sorted({policy.device for policy in policies}))
    maps = state_maps(stateful)
    known = {item.name for item in objects}
    added = {
        "sg_tc": AttachmentPlan("sg_uplink_tc", "tc-ingress", devices),
        "sg_slow": AttachmentPlan("sg_slow_tc", "tc-ingress", (SLOW_PEER,)),
    }
    made = []
    for item in objects:
        attachments = item.attachments
        if item.name == "sg_tc" and added["sg_tc"] not in attachments:
            attachments = (*attachments, added["sg_tc"])
        names = tuple(dict.fromkeys((*item.owners, *owners))) if item.name in ENGINE else item.owners
        made.append(replace(item, maps=maps, attachments=attachments, owners=names))
    told = MapPlan("sg_eg_shadow", stateful.ids, False)  # what a standby was told: a restart tells it anew
    made.append(ObjectPlan("sg_import", digests["sg_import"], owners, (), maps=(*maps, told)))
    fresh = (ObjectPlan(n, digests[n], owners, (added[n],), maps=maps) for n in ENGINE if n not in known)
    return (*made, *fresh)


def _state(policies: tuple[EgressPlan, ...], made: NodePlan) -> StatefulPlan:
    taken = {gateway.stat for gateway in made.nat.gateways} if made.nat is not None else set()
    objects: list[ObjectStatePlan] = []
    spaces: list[PortSpacePlan] = []
    for policy in policies:
        stat = int.from_bytes(hashlib.sha256(str(policy.owner).encode()).digest()[:4], "big") % MAX_STATS
        while stat in taken:
            stat = (stat + 1) % MAX_STATS
        taken.add(stat)
        addresses = [
            (pair.id, family, text)
            for pair in policy.pairs
            for family, text in ((4, pair.ipv4), (6, pair.ipv6))
            if text is not None
        ]
        for pair, family, text in addresses:
            name = object_name(policy.owner.name, pair, family)
            space = PortSpacePlan(
                text,
                text,
                1,
                0,
                ALL_BLOCKS,
                PROTOCOLS * ALL_BLOCKS,
                obj=name,
                static=False,
                owners=(policy.owner,),
                same=True,
            )
            spaces.append(space)
            objects.append(_object(policy, name, space, stat, len(addresses)))
    return StatefulPlan(
        owners=tuple(policy.owner for policy in policies),
        objects=tuple(objects),
        spaces=tuple(spaces),
        bindings=(),
        services=(),
    )


def _object(policy: EgressPlan, name: str, space: PortSpacePlan, stat: int, shared_by: int) -> ObjectStatePlan:
    """An object's sessions are shared evenly by its addresses."""
    nat = policy.nat
    sessions = max(1024, nat.max_sessions // shared_by)
    ports = OWN_PORTS[1] - OWN_PORTS[0] + 1
    flags = StatefulFlag.LIVE | StatefulFlag.ADF | StatefulFlag.PAIRED | StatefulFlag.SAME
    limited = nat.client_ports or nat.client_sessions or nat.client_rate
    return ObjectStatePlan(
        name=name,
        owner=policy.owner,
        gateway=bare_writer(policy.owner, stat, GatewayFlag.STATEFUL),
        flags=int(flags | StatefulFlag.CLIENTS if limited else flags),
        max_sessions=sessions,
        lifetimes=nat.lifetimes,
        client_ports=nat.client_ports,
        client_sessions=nat.client_sessions,
        client_rate=nat.client_rate,
        client_len=nat.client_len if ":" in space.address else 128,
        half_size=max(1, min(MAX_HALF_OPEN, ports // 4, sessions // 4)),
        block_size=nat.block_size,
        pools=(PoolPlan(space, *OWN_PORTS),),
    )
