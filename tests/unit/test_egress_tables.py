"""Which pods are selected, and what the maps of egress hold for them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import pytest

from sixgate.api.nodeconfig import EgressPair, EgressPods, EgressPolicy, LabelTerm
from sixgate.node.egress.tables import (
    SET_NONE,
    SET_UNKNOWN,
    Contents,
    Memo,
    Pod,
    Prefix,
    Target,
    contents,
    holds,
    merged,
    pair_of,
    prefix_of,
)

PAYMENTS = EgressPods(namespaces=(LabelTerm(key="team", operator="In", values=("payments",)),))
SPACES = {"pay": {"team": "payments"}, "other": {"team": "other"}}


def policy(
    name: str, *destinations: str, excluded: tuple[str, ...] = (), pairs: tuple[int, ...] = (1,)
) -> EgressPolicy:
    return EgressPolicy(
        name=name,
        stat=len(name),
        pods=(PAYMENTS,),
        destinations=destinations,
        excluded=excluded,
        pairs=tuple(EgressPair(id=number, ipv4="198.51.100.1") for number in pairs),
    )


def lookup(table: dict[Prefix, Target], address: str) -> int:
    """What the kernel's longest-prefix map answers: the pair, 0 for none."""
    host = prefix_of(f"{address}/{32 if '.' in address else 128}")
    found = [(prefix.length, target.pair) for prefix, target in table.items() if host.within(prefix.length) == prefix]
    return max(found, default=(0, 0))[1]


@dataclass(frozen=True)
class TermCase:
    name: str
    term: LabelTerm
    labels: dict[str, str]
    expected: bool

    def __str__(self) -> str:
        return self.name


@pytest.mark.parametrize(
    "case",
    [
        TermCase("in", LabelTerm(key="a", operator="In", values=("x", "y")), {"a": "y"}, True),
        TermCase("in, missing", LabelTerm(key="a", operator="In", values=("x",)), {}, False),
        TermCase("not in", LabelTerm(key="a", operator="NotIn", values=("x",)), {"a": "x"}, False),
        TermCase("not in, missing", LabelTerm(key="a", operator="NotIn", values=("x",)), {}, True),
        TermCase("exists", LabelTerm(key="a", operator="Exists"), {"a": ""}, True),
        TermCase("does not exist", LabelTerm(key="a", operator="DoesNotExist"), {"a": ""}, False),
    ],
    ids=str,
)
def test_a_requirement_on_labels(case: TermCase) -> None:
    assert holds(case.term, case.labels) is case.expected


def test_a_pod_of_a_selected_namespace_has_a_set_and_others_are_known_without_one() -> None:
    pods = [Pod("pay", "a", {}, ("10.0.0.1", "fd00::1")), Pod("other", "b", {}, ("10.0.0.2",))]
    made = contents((policy("p", "203.0.113.0/24"),), pods, SPACES, {"10.0.0.1": 3, "fd00::1": 3, "10.0.0.2": 4})
    assert made.pods["10.0.0.2"] == (4, SET_NONE)
    index, number = made.pods["10.0.0.1"]
    assert (index, made.pods["fd00::1"][1]) == (3, number)
    assert number > SET_UNKNOWN
    assert made.selected == {"p": {1: 1}}


def test_a_pod_whose_device_is_not_known_has_no_entry() -> None:
    made = contents((policy("p", "203.0.113.0/24"),), [Pod("pay", "a", {}, ("10.0.0.1",))], SPACES, {})
    assert made.pods == {}
    assert any(number == SET_UNKNOWN for number, _ in made.destinations)


def test_the_longest_prefix_counts_between_objects_and_the_oldest_of_equal_ones() -> None:
    table = merged(
        (
            (policy("old", "203.0.113.0/24"), 1),
            (policy("new", "203.0.113.0/24", "203.0.113.128/25"), 2),
        )
    )
    assert lookup(table, "203.0.113.9") == 1
    assert lookup(table, "203.0.113.200") == 2
    assert lookup(table, "198.51.100.1") == 0


def test_an_exclusion_leaves_the_destination_to_the_other_object_and_else_to_nobody() -> None:
    table = merged(
        (
            (policy("a", "203.0.113.0/24", excluded=("203.0.113.128/25",)), 1),
            (policy("b", "203.0.113.192/26", "203.0.0.0/16"), 2),
        )
    )
    assert lookup(table, "203.0.113.9") == 1
    assert lookup(table, "203.0.113.129") == 2  # covered by the /16
    assert lookup(table, "203.0.113.193") == 2
    assert lookup(merged(((policy("a", "0.0.0.0/0", excluded=("10.0.0.0/8",)), 1),)), "10.1.2.3") == 0


def test_the_table_says_what_the_rules_say_for_any_policies() -> None:
    """Against the definition, address by address."""
    rng = random.Random(7)
    for _ in range(60):
        chosen = []
        for number in range(4):
            nets = [str(ip_network((rng.getrandbits(32), rng.randint(0, 32)), strict=False)) for _ in range(4)]
            chosen.append((policy(f"p{number}", *nets[:2], excluded=tuple(nets[2:])), number + 1))
        table = merged(tuple(chosen))
        edges = [ip_network(c) for p, _ in chosen for c in (*p.destinations, *p.excluded)]
        for net in edges:
            for address in (net.network_address, net.broadcast_address):
                best = (-1, 0, 0)
                for order, (each, pair) in enumerate(chosen):
                    if any(address in ip_network(c) for c in each.excluded):
                        continue
                    for cidr in map(ip_network, each.destinations):
                        if address in cidr:
                            best = max(best, (cidr.prefixlen, -order, pair))
                # An exclusion bars a policy for the whole prefix that the longest match names.
                assert lookup(table, str(address)) == best[2], (address, chosen)


def test_a_pair_that_comes_moves_only_the_pods_that_it_wins() -> None:
    before = policy("p", "203.0.113.0/24", pairs=(1, 2, 3)).pairs
    after = policy("p", "203.0.113.0/24", pairs=(1, 2, 3, 4)).pairs
    pods = [Pod("pay", f"pod-{number}") for number in range(400)]
    moved = {pod.name for pod in pods if pair_of(pod, before) != pair_of(pod, after)}
    assert moved == {pod.name for pod in pods if pair_of(pod, after) == 4}
    assert 50 < len(moved) < 150


def test_sets_are_numbered_by_contents_so_a_restart_finds_them_again() -> None:
    pods = [Pod("pay", f"pod-{number}", {}, (str(ip_address(0x0A000001 + number)),)) for number in range(20)]
    ports = {pod.addresses[0]: 3 for pod in pods}
    one = contents((policy("p", "203.0.113.0/24", pairs=(1, 2)),), pods, SPACES, ports)
    two = contents((policy("p", "203.0.113.0/24", pairs=(1, 2)),), list(reversed(pods)), SPACES, ports)
    other = contents((policy("p", "203.0.112.0/24", pairs=(1, 2)),), pods, SPACES, ports)
    assert one == two
    assert {number for _, number in one.pods.values()}.isdisjoint({number for _, number in other.pods.values()})


def test_entries_are_bounded_by_the_pods_of_the_node() -> None:
    """100 policies that each select everybody: two sets more than one pod has."""
    policies = tuple(policy(f"p{number}", f"203.0.{number}.0/24", pairs=(number + 1,)) for number in range(100))
    pods = [Pod("pay", f"pod-{number}", {}, (str(ip_address(0x0A000001 + number)),)) for number in range(110)]
    made = contents(policies, pods, SPACES, {pod.addresses[0]: 3 for pod in pods})
    assert len(made.pods) == 110
    assert len(made.destinations) == 2 * 100


def meaning(made: Contents) -> dict[str, tuple[int, dict[Prefix, Target]]]:
    """Device and destinations of each address. Sets with equal contents have numbers that depend on what was there
    first."""
    tables: dict[int, dict[Prefix, Target]] = {}
    for (number, prefix), target in made.destinations.items():
        tables.setdefault(number, {})[prefix] = target
    unknown = {"": (0, tables.get(SET_UNKNOWN, {}))}
    return unknown | {address: (index, tables.get(number, {})) for address, (index, number) in made.pods.items()}


@pytest.mark.parametrize("seed", range(5))
def test_a_memo_saves_work_and_changes_nothing(seed: int) -> None:
    """Pods, labels, policies and devices come, go and change; the same memo serves all the while."""
    choice = random.Random(seed)
    memo = Memo()
    spaces = {"pay": {"team": "payments"}, "other": {"team": "other"}}
    pods: dict[str, Pod] = {}
    policies: tuple[EgressPolicy, ...] = ()
    for _ in range(300):
        match choice.randrange(6):
            case 0 | 1:
                name = f"p{choice.randrange(12)}"
                where = choice.choice(sorted(spaces))
                pods[name] = Pod(where, name, {}, (f"10.0.0.{choice.randrange(1, 20)}", f"fd00::{len(pods)}"))
            case 2:
                pods.pop(f"p{choice.randrange(12)}", None)
            case 3:
                spaces[choice.choice(sorted(spaces))] = {"team": choice.choice(["payments", "other"])}
            case 4:
                chosen = choice.sample(["a", "b", "c"], choice.randrange(4))
                policies = tuple(
                    policy(n, f"203.0.{choice.randrange(3)}.0/24", pairs=(1, choice.randrange(2, 5))) for n in chosen
                )
            case _:
                pass
        ports = {f"10.0.0.{n}": n for n in range(1, 20) if choice.random() < 0.8}
        everybody = list(pods.values())
        with_memo, without = (
            contents(policies, everybody, spaces, ports, memo),
            contents(policies, everybody, spaces, ports),
        )
        assert meaning(with_memo) == meaning(without)
        assert with_memo.selected == without.selected
