"""From policies, pods and the devices that lead to them to the contents of egress' maps. Pure."""

from __future__ import annotations

import hashlib
import ipaddress
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Set

    from sixgate.api.nodeconfig import EgressPair, EgressPods, EgressPolicy, LabelTerm

SET_NONE, SET_UNKNOWN = 0, 1  # SG_EG_SET_NONE, SG_EG_SET_UNKNOWN
TELL_NEW, TELL_NO_GATEWAY = 1, 2  # enum sg_eg_dst_flag
_FIRST_SET = 2
_V4_BITS = 96  # IPv4 /n stands as /(96 + n) in the 128-bit form
_V4_PREFIX = 0xFFFF << 32


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of this node; `addresses` are canonical text of either family."""

    namespace: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class Prefix:
    """A CIDR in the 128-bit form: first address as a number, and length in bits."""

    first: int
    length: int

    def within(self, length: int) -> Prefix:
        """The prefix of `length` bits, not more than this one has, that holds it."""
        shift = 128 - length
        return Prefix(self.first >> shift << shift, length)


@dataclass(frozen=True, slots=True)
class Target:
    """Where packets to a destination go: by a pair (0: not by egress at all), counted for an object."""

    pair: int
    stat: int
    flags: int = 0  # TELL_NEW, TELL_NO_GATEWAY


@dataclass(frozen=True, slots=True)
class Contents:
    """`pods`: address to (ifindex, set); `destinations`: (set, prefix) to target; `selected`: number of pods by policy
    and pair."""

    pods: Mapping[str, tuple[int, int]]
    destinations: Mapping[tuple[int, Prefix], Target]
    selected: Mapping[str, Mapping[int, int]]


def contents(
    policies: tuple[EgressPolicy, ...],
    pods: Iterable[Pod],
    namespaces: Mapping[str, Mapping[str, str]],
    ports: Mapping[str, int],
) -> Contents:
    """Everything that the maps of one node hold. `namespaces` are labels by name, `ports` ifindexes by pod address.

    A pod whose device is not known yet is left out: its packets are dropped where they would be covered.
    """
    entries: dict[str, tuple[int, int]] = {}
    union = tuple((policy, policy.pairs[0].id if policy.pairs else _NO_PAIR) for policy in policies)
    destinations = {(SET_UNKNOWN, prefix): target for prefix, target in merged(union).items()}
    numbers: dict[tuple[tuple[str, int], ...], int] = {}
    selected: dict[str, dict[int, int]] = {policy.name: {} for policy in policies}
    for pod in sorted(pods, key=str):
        chosen = tuple(
            (policy, pair_of(pod, policy.pairs))
            for policy in policies
            if selects(policy, pod, namespaces.get(pod.namespace, {}))
        )
        for policy, pair in chosen:
            selected[policy.name][pair] = selected[policy.name].get(pair, 0) + 1
        key = tuple((policy.name, pair) for policy, pair in chosen)
        if not chosen:
            number = SET_NONE
        elif key in numbers:
            number = numbers[key]
        else:
            table = merged(chosen)
            number = numbers[key] = _set_number(table, set(numbers.values()))
            destinations.update({(number, prefix): target for prefix, target in table.items()})
        for address in pod.addresses:
            if address in ports:
                entries[address] = (ports[address], number)
    return Contents(entries, destinations, selected)


_NO_PAIR = 0x3FFFFF  # of a policy without pairs: no gateway ever owns it, so its packets are dropped


def _set_number(table: Mapping[Prefix, Target], used: Set[int]) -> int:
    """A number that says what the set holds: a changed table is a new set beside the old one, and a restarted agent
    finds the same numbers again."""
    text = repr(sorted((p.first, p.length, t.pair, t.stat, t.flags) for p, t in table.items()))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    while number < _FIRST_SET or number in used:
        number = (number + 1) & 0xFFFFFFFF
    return number


def selects(policy: EgressPolicy, pod: Pod, namespace: Mapping[str, str]) -> bool:
    return any(_within(pods, pod, namespace) for pods in policy.pods)


def _within(pods: EgressPods, pod: Pod, namespace: Mapping[str, str]) -> bool:
    return all(holds(term, namespace) for term in pods.namespaces) and all(
        holds(term, pod.labels) for term in pods.pods
    )


def holds(term: LabelTerm, labels: Mapping[str, str]) -> bool:
    """Whether labels meet one requirement, as Kubernetes defines it."""
    match term.operator:
        case "In":
            return labels.get(term.key) in term.values
        case "NotIn":
            return labels.get(term.key) not in term.values
        case "Exists":
            return term.key in labels
        case "DoesNotExist":
            return term.key not in labels


def pair_of(pod: Pod, pairs: tuple[EgressPair, ...]) -> int:
    """The pair that a pod keeps: a pair that comes or goes moves only the pods that it wins or loses."""
    if not pairs:
        return _NO_PAIR
    return max(pairs, key=lambda pair: (rendezvous(str(pod), pair.id), pair.id)).id


def rendezvous(name: str, pair: int) -> int:
    """Weight of `name` for a pair."""
    return int.from_bytes(hashlib.sha256(f"{pair}/{name}".encode()).digest()[:8], "big")


@lru_cache(maxsize=65536)
def prefix_of(cidr: str) -> Prefix:
    network = ipaddress.ip_network(cidr)
    first = int(network.network_address)
    if network.version == 4:
        return Prefix(first | _V4_PREFIX, network.prefixlen + _V4_BITS)
    return Prefix(first, network.prefixlen)


def merged(chosen: tuple[tuple[EgressPolicy, int], ...]) -> dict[Prefix, Target]:
    """One longest-prefix table for policies and the pair of each, oldest first.

    For every prefix that any of them names: the policy whose destination covers it with the longest prefix and that
    does not exclude it; of equal ones the first. Target 0 where there is none: as if egress were not there.
    """
    wanted: defaultdict[Prefix, list[int]] = defaultdict(list)
    excluded: defaultdict[Prefix, list[int]] = defaultdict(list)
    for number, (policy, _) in enumerate(chosen):
        for cidr in policy.destinations:
            wanted[prefix_of(cidr)].append(number)
        for cidr in policy.excluded:
            excluded[prefix_of(cidr)].append(number)
    lengths = sorted({prefix.length for prefix in (*wanted, *excluded)}, reverse=True)
    table: dict[Prefix, Target] = {}
    for prefix in {*wanted, *excluded}:
        above = [prefix.within(length) for length in lengths if length <= prefix.length]
        barred = {number for outer in above for number in excluded.get(outer, ())}
        winner = next(
            (number for outer in above for number in sorted(wanted.get(outer, ())) if number not in barred), None
        )
        table[prefix] = Target(0, 0) if winner is None else _target(*chosen[winner])
    return table


def _target(policy: EgressPolicy, pair: int) -> Target:
    told = (TELL_NEW if policy.new_pods == "Drop" else 0) | (TELL_NO_GATEWAY if policy.no_gateway == "Drop" else 0)
    return Target(pair, policy.stat, told)
