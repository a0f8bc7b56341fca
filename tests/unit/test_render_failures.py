"""A template that fails is a sentence on the objects, and nothing is published; hostile strings stay data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgate.api import NodeConfigSpec
from sixgate.errors import Ref
from sixgate.plan import NodePlan
from sixgate.plan.natplan import GatewayPlan, MappingPlan, NatPlan, RangePlan
from sixgate.plan.nodeplan import AttachmentPlan, ConfigPlan, Feature, ObjectPlan
from sixgate.render import Renderer, TemplateFailed
from tests.unit.objects import DIGESTS, gateway, planned

CIDRS: dict[str, Any] = {"prefix": "2001:db8:1::/96", "ipv4CIDRs": ["198.51.100.0/24"]}
SHIPPED = Path(__file__).resolve().parents[2] / "operator" / "sixgate" / "render" / "templates"


def override(folder: Path, text: str, name: str = "nat46.json.j2") -> Renderer:
    (folder / name).write_text(text)
    return Renderer(folder)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"links": [{{ plan.nowhere | tojson }}]}', "has no attribute 'nowhere'"),
        ('{"links": [{{ ["x"].pop | tojson }}]}', "a value of type builtin_function_or_method cannot be"),
        ('{"links": [{{ nowhere }}]}', "'nowhere' is undefined"),
        ('{"links": [', "its output is not JSON"),
        ("", "its output is not JSON"),
        ("[]", "it must write one JSON object with lists for some of objects, numbers, tables"),
        ('{"revision": "x"}', "it must write one JSON object with lists for some of objects, numbers, tables"),
        ('{"links": [{"name": "a", "kind": "bridge"}]}', "links.0.kind of its output is wrong"),
        ('{"links": 5}', "it must write one JSON object with lists"),
        ('{"sysctls": [{"key": "kernel/panic", "value": "1"}]}', "sysctls.0.key of its output is wrong"),
        ("{% if %}", "TemplateSyntaxError in line 1"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{% include 'missing' %}", "missing"),
    ],
)
def test_a_failing_template_of_the_site(tmp_path: Path, text: str, says: str) -> None:
    result = planned(gateway("g", "ab", **CIDRS))
    rendered = override(tmp_path, text).render_all(result)
    assert list(rendered.specs) == ["c"], "nodes without the object keep getting documents"
    (problem,) = rendered.problems
    assert (problem.ref, problem.reason) == (Ref("NAT46Gateway", "g"), "RenderFailed")
    start = "the template nat46.json.j2 must write a part of a NodeConfig for NAT46Gateway/g: "
    assert problem.message.startswith(start)
    assert says in problem.message


def test_one_failure_is_told_to_every_object(tmp_path: Path) -> None:
    other = gateway("h", "b", prefix="2001:db8:2::/96", ipv4CIDRs=["10.0.0.0/24"])
    rendered = override(tmp_path, "no").render_all(planned(gateway("g", "ab", **CIDRS), other))
    assert {problem.ref.name for problem in rendered.problems} == {"g", "h"}


def test_a_site_replaces_one_template_by_name(tmp_path: Path) -> None:
    text = (SHIPPED / "nat46.json.j2").read_text().replace('"mtu": 65535', '"mtu": 9000')
    result = planned(gateway("g", **CIDRS))
    spec = override(tmp_path, text).render(result.nodes["a"])
    assert [link.mtu for link in spec.links] == [9000]
    assert spec.objects == Renderer().render(result.nodes["a"]).objects


def test_equal_plans_are_rendered_once() -> None:
    renderer = Renderer()
    item = gateway("g", "ab", **CIDRS)
    first = renderer.render_all(planned(item)).specs
    assert first["a"] is first["b"]
    again = renderer.render_all(planned(item)).specs
    assert again["a"] is first["a"]


def test_a_mended_object_is_rendered_after_a_failure(tmp_path: Path) -> None:
    text = (SHIPPED / "nat46.json.j2").read_text() + "{% set _ = 1 // (nat.gateways[0].low_mtu - 1280) %}"
    renderer = override(tmp_path, text)
    assert renderer.render_all(planned(gateway("g", **CIDRS))).problems
    mended = renderer.render_all(planned(gateway("g", **CIDRS, lowestIPv6MTU=1400)))
    assert not mended.problems
    assert set(mended.specs) == {"a", "b", "c"}


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.j2")), ids=lambda path: path.name)
def test_every_value_goes_through_tojson(path: Path) -> None:
    expressions = [part.split("}}", 1)[0].strip() for part in path.read_text().split("{{")[1:]]
    assert expressions
    bare = [text for text in expressions if not text.endswith("tojson") and text != '"," if not loop.last']
    assert not bare


HOSTILE = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            '"',
            "'",
            "\\",
            "\n",
            "{{ 7*7 }}",
            "{% raw %}",
            "#}",
            "</script>",
            "\x00",
            "\u2028",
            "&",
            "!!python/object:x",
            '", "objects": [{',
            "- a: b",
            "${HOME}",
            "\ud7ff",
            "%s",
            "a\tb",
            "'; rm -rf /",
        ]
    ),
)


def hostile_plan(text: str) -> NodePlan:
    """A plan with `text` in every string that the model of NodeConfig does not bound by a pattern."""
    owner = Ref("NAT46Gateway", "g")
    there = AttachmentPlan(text, "xdp", (text, text))
    made = GatewayPlan(owner, text, text, 96, text, 0, text, 0, 1, 1280, 0, 0)
    mapping = MappingPlan(text, 120, text, 120, 0, 0, 152)
    config = ConfigPlan(Feature.NAT, text, "sg-slow1", 14, 1, 1)
    nat = NatPlan((owner,), (made,), (RangePlan(1, 2, 0),), (mapping,), 1, 1)
    return NodePlan((ObjectPlan("sg_tc", DIGESTS["sg_tc"], (owner,), (there,)),), config, nat)


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [text for item in inner for text in strings(item)]


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else type(value)


RENDERER = Renderer()
SAFE = dataclasses.replace(hostile_plan("eth0"))


def rendered_or_refused(plan: NodePlan) -> NodeConfigSpec | None:
    """The document, or None where the model refused a value; a document that is broken JSON is an error."""
    try:
        return RENDERER.render(plan)
    except TemplateFailed as failure:
        if "of its output is wrong" not in str(failure):
            raise
        return None


@settings(max_examples=1500, deadline=None)
@given(text=HOSTILE)
def test_hostile_strings_stay_data(text: str) -> None:
    """The same document as for a harmless string, but for that string; or a refusal where the model bounds it."""
    spec = rendered_or_refused(hostile_plan(text))
    if spec is None:
        return
    body = json.loads(spec.model_dump_json(by_alias=True))
    harmless = json.loads(RENDERER.render(SAFE).model_dump_json(by_alias=True))
    assert shape(body) == shape(harmless)
    assert strings(body).count(text) >= strings(harmless).count("eth0")


@settings(max_examples=300, deadline=None)
@given(text=HOSTILE, field=st.sampled_from(["slow_peer", "digest", "name", "hook", "kind", "owner"]))
def test_hostile_strings_in_bounded_fields_are_refused_or_stay_data(text: str, field: str) -> None:
    plan = hostile_plan("eth0")
    assert plan.config is not None
    (item,) = plan.objects
    match field:
        case "slow_peer":
            plan = dataclasses.replace(plan, config=dataclasses.replace(plan.config, slow_peer=text))
        case "hook":
            there = dataclasses.replace(item.attachments[0], hook=text)
            plan = dataclasses.replace(plan, objects=(dataclasses.replace(item, attachments=(there,)),))
        case "kind" | "owner":
            plan = dataclasses.replace(plan, objects=(dataclasses.replace(item, owners=(Ref(text, text),)),))
        case "digest":
            plan = dataclasses.replace(plan, objects=(dataclasses.replace(item, digest=text),))
        case _:
            plan = dataclasses.replace(plan, objects=(dataclasses.replace(item, name=text),))
    spec = rendered_or_refused(plan)
    assert spec is None or shape(json.loads(spec.model_dump_json())) == shape(
        json.loads(RENDERER.render(SAFE).model_dump_json())
    )
