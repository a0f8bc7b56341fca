"""Which nodes a selector means: sets against the definition, one node at a time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgate.api.base import LabelSelector
from sixgate.plan import NodeInfo
from sixgate.plan.select import NodeIndex, bits_of

NODES = (
    NodeInfo("a", {"role": "gw", "zone": "1"}),
    NodeInfo("b", {"role": "gw"}),
    NodeInfo("c", {"zone": "2"}),
    NodeInfo("d"),
)


def selector(labels: dict[str, str] | None = None, *expressions: tuple[str, str, tuple[str, ...]]) -> LabelSelector:
    listed = [{"key": key, "operator": operator, "values": list(values)} for key, operator, values in expressions]
    return LabelSelector.model_validate({"matchLabels": labels or {}, "matchExpressions": listed})


CASES = (
    ("a label", selector({"role": "gw"}), "ab"),
    ("two labels", selector({"role": "gw", "zone": "1"}), "a"),
    ("an unknown value", selector({"role": "x"}), ""),
    ("In", selector(None, ("zone", "In", ("1", "2"))), "ac"),
    ("NotIn holds for an absent label", selector(None, ("zone", "NotIn", ("1",))), "bcd"),
    ("Exists", selector(None, ("zone", "Exists", ())), "ac"),
    ("DoesNotExist", selector(None, ("zone", "DoesNotExist", ())), "bd"),
    ("all must hold", selector({"role": "gw"}, ("zone", "DoesNotExist", ())), "b"),
)


@pytest.mark.parametrize(("name", "wanted", "names"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_selects(name: str, wanted: LabelSelector, names: str) -> None:
    index = NodeIndex(NODES[::-1])
    assert index.names_of(index.select(wanted)) == tuple(names), name


def test_an_empty_selector_selects_nothing() -> None:
    """The model refuses it; should one get here all the same, it must not widen."""
    assert NodeIndex(NODES).select(LabelSelector.model_construct(match_labels={}, match_expressions=())) == 0


def test_no_nodes() -> None:
    index = NodeIndex(())
    assert index.names_of(index.select(selector({"role": "gw"}))) == ()


@given(st.sets(st.integers(0, 300)))
def test_bits(bits: set[int]) -> None:
    assert list(bits_of(sum(1 << bit for bit in bits))) == sorted(bits)


KEYS, VALUES = st.sampled_from(["k", "l", "m"]), st.sampled_from(["1", "2", "3", ""])
LABELS = st.dictionaries(KEYS, VALUES, max_size=3)
EXPRESSIONS = st.one_of(
    st.tuples(KEYS, st.sampled_from(["In", "NotIn"]), st.lists(VALUES, min_size=1, max_size=3).map(tuple)),
    st.tuples(KEYS, st.sampled_from(["Exists", "DoesNotExist"]), st.just(())),
)


@settings(max_examples=200, deadline=None)
@given(all_labels=st.lists(LABELS, max_size=6), match=LABELS, expressions=st.lists(EXPRESSIONS, max_size=3))
def test_sets_agree_with_one_node_at_a_time(
    all_labels: list[dict[str, str]],
    match: dict[str, str],
    expressions: list[tuple[str, str, tuple[str, ...]]],
) -> None:
    if not match and not expressions:
        return
    wanted = selector(match, *expressions)
    nodes = [NodeInfo(f"n{number}", labels) for number, labels in enumerate(all_labels)]
    index = NodeIndex(nodes)
    assert index.names_of(index.select(wanted)) == tuple(
        node.name for node in nodes if wanted.matches(dict(node.labels))
    )
