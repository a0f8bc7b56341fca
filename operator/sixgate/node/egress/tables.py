"""From policies, pods and the devices that lead to them to the contents of egress' maps. Pure."""

from __future__ import annotations

import hashlib
import ipaddress
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Set

    from sixgate.api.nodeconfig import EgressPair, EgressPods, EgressPolicy, LabelTerm

SET_NONE, SET_UNKNOWN = 0, 1  # SG_EG_SET_NONE, SG_EG_SET_UNKNOWN
TELL_NEW, TELL_NO_GATEWAY = 1, 2  # enum sg_eg_dst_flag
_FIRST_SET = 2
_V4_BITS = 96  # IPv4 /n stands as /(96 + n) in the 128-bit form
_V4_PREFIX = 0xFFFF << 32
_UNION = (("", 0),)  # stands for all policies; none is called that
_NO_LABELS: Mapping[str, str] = MappingProxyType({})


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


@dataclass(frozen=True, slots=True)
class _Sorted:
    """`Contents` but for devices: the set of each address."""

    sets: tuple[tuple[str, int], ...]
    destinations: Mapping[tuple[int, Prefix], Target]
    selected: Mapping[str, Mapping[int, int]]


_Key = tuple[tuple[str, int], ...]  # names of policies, and the pair of each: what pods of one set share


@dataclass(slots=True)
class Memo:
    """What was worked out before for pods and sets: `contents` answers as if it were worked out each time. A pod counts
    as known while it is the same object and its namespace has the same labels; everything while policies are."""

    policies: tuple[EgressPolicy, ...] = ()
    _chosen: dict[int, tuple[Pod, Mapping[str, str], tuple[tuple[EgressPolicy, int], ...], _Key]] = field(
        default_factory=dict
    )
    _tables: dict[_Key, Mapping[Prefix, Target]] = field(default_factory=dict)
    _numbers: dict[_Key, int] = field(default_factory=dict)
    _sorted: tuple[tuple[Pod, ...], Mapping[str, Mapping[str, str]], _Sorted] | None = None

    def sorted_into_sets(self, pods: tuple[Pod, ...], namespaces: Mapping[str, Mapping[str, str]]) -> _Sorted:
        """What follows from pods alone; the same as before while they are the same tuple and mapping."""
        known = self._sorted
        if known is None or known[0] is not pods or known[1] is not namespaces:
            known = self._sorted = (pods, namespaces, _sort(pods, namespaces, self))
        return known[2]

    def follow(self, policies: tuple[EgressPolicy, ...], pods: Collection[Pod]) -> None:
        """Forgets what was worked out for other policies and for pods that are gone."""
        if policies != self.policies:
            self.policies = policies
            self._chosen.clear()
            self._tables.clear()
            self._numbers.clear()
            self._sorted = None
        if len(self._chosen) > 2 * len(pods) + 64:
            alive = {id(pod) for pod in pods}
            self._chosen = {number: known for number, known in self._chosen.items() if number in alive}

    def chosen(self, pod: Pod, labels: Mapping[str, str]) -> tuple[tuple[tuple[EgressPolicy, int], ...], _Key]:
        """Policies that select a pod, with the pair of each, oldest first; and the same by name."""
        known = self._chosen.get(id(pod))
        if known is None or known[0] is not pod or known[1] != labels:
            found = tuple((p, pair_of(pod, p.pairs)) for p in self.policies if selects(p, pod, labels))
            known = self._chosen[id(pod)] = (pod, labels, found, tuple((policy.name, pair) for policy, pair in found))
        return known[2], known[3]

    def table(self, key: _Key, chosen: tuple[tuple[EgressPolicy, int], ...]) -> Mapping[Prefix, Target]:
        if key not in self._tables:
            self._tables[key] = merged(chosen)
        return self._tables[key]

    def number(self, key: _Key, table: Mapping[Prefix, Target], used: Set[int]) -> int:
        if self._numbers.get(key, SET_NONE) in used | {SET_NONE}:
            self._numbers[key] = _set_number(table, used)
        return self._numbers[key]


def contents(
    policies: tuple[EgressPolicy, ...],
    pods: Collection[Pod],
    namespaces: Mapping[str, Mapping[str, str]],
    ports: Mapping[str, int],
    memo: Memo | None = None,
) -> Contents:
    """Everything that the maps of one node hold. `namespaces` are labels by name, `ports` ifindexes by pod address.

    A pod whose device is not known yet is left out: its packets are dropped where they would be covered.
    """
    memo = memo or Memo()
    memo.follow(policies, pods)
    made = memo.sorted_into_sets(pods if isinstance(pods, tuple) else tuple(pods), namespaces)
    entries = {address: (ports[address], number) for address, number in made.sets if address in ports}
    return Contents(entries, made.destinations, made.selected)


def _sort(pods: tuple[Pod, ...], namespaces: Mapping[str, Mapping[str, str]], memo: Memo) -> _Sorted:
    policies = memo.policies
    sets: list[tuple[str, int]] = []
    union = tuple((policy, policy.pairs[0].id if policy.pairs else _NO_PAIR) for policy in policies)
    destinations = {(SET_UNKNOWN, prefix): target for prefix, target in memo.table(_UNION, union).items()}
    numbers: dict[_Key, int] = {(): SET_NONE}
    selected: dict[str, dict[int, int]] = {policy.name: {} for policy in policies}
    for pod in sorted(pods, key=str):
        chosen, key = memo.chosen(pod, namespaces.get(pod.namespace, _NO_LABELS))
        for name, pair in key:
            selected[name][pair] = selected[name].get(pair, 0) + 1
        number = numbers.get(key)
        if number is None:
            table = memo.table(key, chosen)
            number = numbers[key] = memo.number(key, table, set(numbers.values()))
            destinations.update({(number, prefix): target for prefix, target in table.items()})
        sets.extend((address, number) for address in pod.addresses)
    return _Sorted(tuple(sets), destinations, selected)


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
