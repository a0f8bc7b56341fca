"""What the operator knows does not depend on the order in which it hears it."""

from __future__ import annotations

import itertools
from typing import Any

from sixgate.api.nodeconfig import NodeConfigSpec
from sixgate.controller.store import MANAGED_BY, OPERATOR, Store, spec_digest, without_nulls
from sixgate.controller.writes import ApplyConfig, DeleteConfig, Document, config_writes, status_writes
from sixgate.errors import Ref


def raw(kind: str, name: str, version: int, **more: Any) -> dict[str, Any]:
    meta = {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version), "generation": 1}
    return {"apiVersion": "sixgate.io/v1alpha1", "kind": kind, "metadata": meta | more.pop("meta", {}), **more}


def config(name: str, version: int, value: str = "1", *, managed: bool = True, **meta: Any) -> dict[str, Any]:
    labels = {MANAGED_BY: OPERATOR} if managed else {}
    return raw("NodeConfig", name, version, spec=dict(document(value).raw), meta={"labels": labels, **meta})


def document(value: str = "1") -> Document:
    body = {"formatVersion": 1, "sysctls": [{"key": "net/ipv6/x", "value": value}]}
    return Document.of(NodeConfigSpec.model_validate(body).hashed())


def test_any_order_of_puts_and_a_drop_ends_the_same() -> None:
    steps = [("put", 1), ("put", 2), ("drop", 3), ("put", 4)]
    for order in itertools.permutations(steps):
        store = Store()
        for step, version in order:
            if step == "put":
                store.put(config("n", version))
            else:
                store.drop("NodeConfig", "n", version)
        assert store.versions("NodeConfig") == {"n": 4}


def test_a_list_made_before_a_deletion_does_not_bring_the_object_back() -> None:
    store = Store()
    store.put(config("n", 5))
    assert store.drop("NodeConfig", "n", 9)
    assert not store.put(config("n", 8))
    assert store.put(config("n", 10)), "made anew"


def test_what_a_list_lacks_is_gone_unless_it_is_younger_than_the_list() -> None:
    store = Store()
    store.put(config("old", 5))
    store.put(config("young", 12))
    assert store.prune("NodeConfig", [], 10) == ("old",)
    assert store.versions("NodeConfig") == {"young": 12}


def test_a_heartbeat_of_a_node_is_no_news_and_a_label_is() -> None:
    store = Store()
    node = {"spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    assert store.put(raw("Node", "n", 1, **node))
    before = store.inputs
    assert not store.put(raw("Node", "n", 2, **node, meta={"annotations": {"heartbeat": "1"}}))
    assert store.inputs == before
    assert store.put(raw("Node", "n", 3, **node, meta={"labels": {"a": "b"}}))
    assert store.inputs == before + 1


def test_a_status_of_an_object_is_not_an_input_and_keeps_the_parsed_model() -> None:
    store = Store()
    spec = {"nodeSelector": {"matchLabels": {"a": "b"}}, "prefix": "2001:db8:64::/96",
            "stateless": {"ipv4CIDRs": ["192.0.2.0/24"]}}  # fmt: skip
    store.put(raw("NAT46Gateway", "g", 1, spec=spec))
    (first,), before = store.users(), store.inputs
    store.put(raw("NAT46Gateway", "g", 2, spec=spec, status={"observedGeneration": 1}))
    (second,) = store.users()
    assert store.inputs == before
    assert second.parsed is first.parsed
    assert first.parsed is not None


def test_the_answer_to_our_own_write_is_news_only_where_others_changed_something() -> None:
    store = Store()
    store.put(config("n", 1))
    assert not store.put_answer(config("n", 2, "2"))
    theirs = config("n", 3, "2") | {"status": {"appliedRevision": "r"}}
    assert store.put_answer(theirs)


def test_an_object_that_cannot_be_read_is_kept_with_its_problems() -> None:
    store = Store()
    store.put(raw("NAT46Gateway", "g", 1, spec={"prefix": 7}))
    (entry,) = store.users()
    assert entry.parsed is None
    assert entry.problems
    assert store.snapshot({}).objects == ()


def test_an_object_that_is_being_deleted_claims_nothing() -> None:
    store = Store()
    spec = {"nodeSelector": {"matchLabels": {"a": "b"}}, "prefix": "2001:db8:64::/96",
            "stateless": {"ipv4CIDRs": ["192.0.2.0/24"]}}  # fmt: skip
    store.put(raw("NAT46Gateway", "g", 1, spec=spec))
    assert len(store.snapshot({}).objects) == 1
    store.put(raw("NAT46Gateway", "g", 2, spec=spec, meta={"deletionTimestamp": "2026-01-01T00:00:00Z"}))
    assert store.snapshot({}).objects == ()


def stored(*raws: dict[str, Any]) -> Store:
    store = Store()
    for item in raws:
        store.put(item)
    return store


def test_only_what_differs_is_written() -> None:
    store = stored(
        config("same", 1), config("other", 2, "9"), config("unneeded", 3), config("foreign", 4, managed=False)
    )
    wanted = {"same": document(), "other": document(), "new": document()}
    writes = config_writes(wanted, frozenset(), store.configs())
    assert [(type(w), w.node) for w in writes if not hasattr(w, "ref")] == [
        (ApplyConfig, "new"),
        (ApplyConfig, "other"),
        (DeleteConfig, "unneeded"),
    ]


def test_contents_under_a_revision_that_lies_are_written_again() -> None:
    lying = config("n", 1)
    lying["spec"] = {**lying["spec"], "sysctls": []}
    assert len(config_writes({"n": document()}, frozenset(), stored(lying).configs())) == 1


def test_a_node_that_could_not_be_rendered_keeps_what_it_has() -> None:
    store = stored(config("n", 1))
    assert config_writes({}, frozenset({"n"}), store.configs()) == ()


def test_an_empty_document_is_no_nodeconfig() -> None:
    empty = Document.of(NodeConfigSpec.model_validate({"formatVersion": 1}).hashed())
    writes = config_writes({"a": empty, "b": empty}, frozenset(), stored(config("b", 1)).configs())
    assert [type(write) for write in writes] == [DeleteConfig]


def test_nulls_that_a_server_drops_do_not_change_the_digest() -> None:
    assert spec_digest({"a": {"b": None, "c": [1, {"d": None}]}, "revision": "x"}) == spec_digest({"a": {"c": [1, {}]}})
    assert without_nulls([None, {"a": None}]) == [None, {}]


def test_empty_sections_are_not_sent_and_do_not_change_the_digest() -> None:
    sent = document().raw
    assert set(sent) == {"formatVersion", "revision", "sysctls"}
    assert spec_digest({**sent, "tables": [], "links": []}) == document().digest


def test_a_status_is_compared_without_order_and_without_conditions_of_others() -> None:
    ready = {"type": "Ready", "status": "True"}
    conflicted = {"type": "Conflicted", "status": "False"}
    have = {"observedGeneration": 1, "conditions": [conflicted, {"type": "Argo", "status": "True"}, ready]}
    store = stored(raw("NAT46Gateway", "g", 1, spec={}, status=have))
    users = {entry.ref: entry for entry in store.users()}
    ref = Ref("NAT46Gateway", "g")
    assert status_writes({ref: {"observedGeneration": 1, "conditions": [ready, conflicted]}}, users) == ()
    assert len(status_writes({ref: {"observedGeneration": 2, "conditions": [ready, conflicted]}}, users)) == 1
    assert len(status_writes({ref: {"observedGeneration": 1, "conditions": [ready]}}, users)) == 1
