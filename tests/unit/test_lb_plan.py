"""LoadBalancers as plans: backends, ports of Services, sizes, announcers, what is wrong with them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from sixgate.api import UserObject, parse_object
from sixgate.cli import build
from sixgate.errors import Ref
from sixgate.plan import NodeInfo, Snapshot, plan
from sixgate.plan.balancer import MAX_ANNOUNCERS, default_size, preference
from sixgate.plan.lbplan import BackendPlan, PortPlan, PrefixPlan, TlsPlan
from sixgate.plan.nodeplan import EMPTY, Feature
from sixgate.plan.snapshot import Endpoint, EndpointPort, Endpoints
from sixgate.render import Renderer
from tests.unit.balancers import HTTP, KEY, WEB, lb, of_service, the_plan, the_problem, with_endpoints
from tests.unit.objects import DIGESTS, gateway, make, on, planned

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def test_a_balancer_with_defaults() -> None:
    result = planned(lb())
    assert not result.problems
    made = the_plan(result)
    assert made.backends == (BackendPlan("203.0.113.11", 1, "Active", ""),)
    assert made.ports == (PortPlan("TCP", 80, 80, 80),)
    assert (made.table_size, made.mode, made.drain_s, made.check) == (2039, "DSR", 300, None)
    node = result.nodes["a"]
    assert node.config is not None
    assert node.config.features == Feature.LB
    assert [item.name for item in node.objects] == ["sg_tc", "sg_slow", "sg_xdp"]
    assert not result.nodes["b"].balancers


def test_gateways_and_balancers_share_objects() -> None:
    cidrs = {"prefix": "2001:db8:1::/96", "ipv4CIDRs": ["198.51.100.0/24"]}
    result = planned(
        gateway("g", devices=["eth0"], acceleration="BestEffort", **cidrs),
        lb(devices=["eth0", "eth1"], acceleration="Native"),
    )
    assert not result.problems
    node = result.nodes["a"]
    assert node.config is not None
    assert node.config.features & (Feature.LB | Feature.NAT) == Feature.LB | Feature.NAT
    objects = {item.name: item for item in node.objects}
    assert len(objects) == len(node.objects)
    assert set(objects["sg_tc"].owners) == {Ref("NAT46Gateway", "g"), WEB}
    (uplink,) = objects["sg_tc"].attachments
    assert uplink.devices == ("eth0", "eth1")
    (xdp,) = objects["sg_xdp"].attachments  # what one requires is no acceleration of the other any more
    assert (xdp.devices, xdp.required) == (("eth0", "eth1"), True)


@pytest.mark.parametrize(
    ("ipv6", "said"),
    [({"enabled": False}, "Translated"), ({"enabled": True, "maxSize": 180000}, "TranslatedAndForwarded")],
    ids=["alone", "with-a-policy"],
)
def test_super_packets_are_translated_where_a_balancer_shares_the_program(ipv6: dict[str, Any], said: str) -> None:
    cidrs = {"prefix": "2001:db8:1::/96", "ipv4CIDRs": ["198.51.100.0/24"]}
    policy = make("BIGTCPPolicy", "big", {"nodeSelector": on("a"), "ipv6": ipv6, "ipv4": {"enabled": True}})
    digests = {**DIGESTS, "sg_fwd": DIGESTS["sg_tc"]}
    items = (gateway("g", devices=["eth0"], **cidrs), lb(devices=["eth1"]), policy)
    made = planned(*items, digests=digests).nodes["a"]
    (uplink,) = next(item for item in made.objects if item.name == "sg_tc").attachments
    assert (uplink.devices, uplink.super_packets) == (("eth0", "eth1"), said)


def test_the_same_object_is_the_same_on_every_node() -> None:
    result = planned(lb("web", "a", "b"))
    assert the_plan(result, "a") is the_plan(result, "b")
    assert the_plan(planned(lb(age=5))).seed == the_plan(result).seed != the_plan(planned(lb("other"))).seed


def test_maintenance_and_weights() -> None:
    backends = [{"address": "203.0.113.12", "weight": 0}, {"address": "203.0.113.11", "maintenance": True}]
    made = the_plan(planned(lb(backends=backends)))
    assert made.backends == (
        BackendPlan("203.0.113.11", 1, "Maintenance", ""),
        BackendPlan("203.0.113.12", 0, "Active", ""),
    )


@pytest.mark.parametrize(
    ("backends", "of_a_service", "size"),
    [
        (1, False, 2039),
        (20, False, 2039),
        (21, False, 16381),
        (1, True, 16381),
        (161, True, 65537),
        (4096, False, 65537),
    ],
)
def test_default_sizes(backends: int, of_a_service: bool, size: int) -> None:
    assert default_size(backends, of_service=of_a_service) == size


def test_endpoints_of_a_service_are_backends() -> None:
    result = with_endpoints(
        of_service(),
        Endpoint("10.0.0.2", "b", ports=(HTTP,)),
        Endpoint("10.0.0.1", "a", ready=False, terminating=True, ports=(HTTP,)),
        Endpoint("10.0.0.3", "b", ready=False, ports=(HTTP,)),
    )
    assert not result.problems
    made = the_plan(result)
    assert [(b.address, b.state) for b in made.backends] == [("10.0.0.1", "Terminating"), ("10.0.0.2", "Active")]
    assert made.ports == (PortPlan("TCP", 80, 80, 8080),)


@pytest.mark.parametrize(
    ("serving", "ready", "states"),
    [
        ((True, True), False, ["Active", "Active"]),
        ((True, False), False, ["Active", "Terminating"]),
        ((False, False), False, ["Terminating", "Terminating"]),
        ((True, True), True, ["Terminating", "Terminating", "Active"]),
    ],
)
def test_endpoints_that_leave_serve_while_there_is_nobody_else(
    serving: tuple[bool, bool], ready: bool, states: list[str]
) -> None:
    """As kube-proxy has it (KEP-1669)."""
    leaving = [
        Endpoint(f"10.0.0.{n}", ready=False, serving=each, terminating=True, ports=(HTTP,))
        for n, each in enumerate(serving, 1)
    ]
    others = [Endpoint("10.0.0.9", ports=(HTTP,))] if ready else []
    result = with_endpoints(of_service(), *leaving, *others)
    assert [backend.state for backend in the_plan(result).backends] == states


def test_a_service_without_endpoints_refuses_flows_and_says_so() -> None:
    result = with_endpoints(of_service())
    assert (the_problem(result).reason, the_plan(result).backends) == ("NoEndpoints", ())
    assert "the Service shop/web, which has no endpoints" in the_problem(result).message


def test_a_port_that_the_service_has_not() -> None:
    result = with_endpoints(of_service(), Endpoint("10.0.0.1", ports=(EndpointPort("grpc", "TCP", 9),)))
    assert (the_problem(result).reason, the_plan(result).ports) == ("PortUnknown", ())


def test_endpoints_with_another_number_of_a_named_port_are_left_out() -> None:
    odd = Endpoint("10.0.0.9", ports=(EndpointPort("http", "TCP", 8081),))
    result = with_endpoints(of_service(), *(Endpoint(f"10.0.0.{n}", ports=(HTTP,)) for n in (1, 2)), odd)
    assert [b.address for b in the_plan(result).backends] == ["10.0.0.1", "10.0.0.2"]
    assert "leaves out 1 endpoints" in the_problem(result).message


def test_an_endpoint_that_is_the_vip_itself_is_left_out() -> None:
    result = with_endpoints(of_service(), *(Endpoint(a, ports=(HTTP,)) for a in ("192.0.2.80", "10.0.0.1")))
    assert [b.address for b in the_plan(result).backends] == ["10.0.0.1"]
    assert the_problem(result).reason == "BackendIsVip"
    assert "leaves out the endpoint 192.0.2.80 of the Service shop/web, which is its own VIP" in str(result.problems)


@pytest.mark.parametrize(
    ("spec", "wants", "has"),
    [
        ({"ports": [{"port": 85}]}, "192.0.2.80 port 85/TCP", "192.0.2.80 ports 80 to 90/TCP"),
        ({"ports": [{"port": 90, "endPort": 99}]}, "192.0.2.80 ports 90 to 99/TCP", "192.0.2.80 ports 80 to 90/TCP"),
        ({"ports": None, "allPorts": True}, "192.0.2.80", "192.0.2.80 ports 80 to 90/TCP"),
    ],
)
def test_ports_that_an_older_object_has(spec: dict[str, Any], wants: str, has: str) -> None:
    result = planned(lb("old", age=2, ports=[{"port": 80, "endPort": 90}]), lb("new", age=1, **spec))
    problem = the_problem(result)
    assert (problem.ref.name, problem.reason) == ("new", "Conflicted")
    assert f"wants {wants} (spec.vips[0]), but LoadBalancer/old is older and has {has}" in problem.message


def check(**more: Any) -> dict[str, Any]:
    return {"healthCheck": {"type": "TCP", **more}}


def test_the_port_of_a_check() -> None:
    asked = the_plan(planned(lb(ports=[{"port": 80, "targetPort": 8080}], **check()))).check
    assert asked is not None
    assert asked.port == 8080
    result = planned(lb(ports=None, allPorts=True, **check()))
    assert (the_problem(result).reason, the_plan(result).check) == ("CheckPortMissing", None)


def test_tls_of_a_check() -> None:
    def tls(**declared: Any) -> Any:
        made = the_plan(planned(lb(ports=[{"port": 443}], **check(type="HTTPS", host="a.example", **declared))))
        assert made.check is not None
        return made.check.tls

    assert tls() is None, "nothing is verified by default"
    assert tls(tls={}) == TlsPlan(verify=True, ca_bundle="", ca_file="", server_name="a.example")
    assert tls(tls={"caFile": "/etc/ca.pem", "serverName": "b.example."}) == TlsPlan(
        verify=True, ca_bundle="", ca_file="/etc/ca.pem", server_name="b.example"
    )


def test_authorities_that_are_none() -> None:
    bundle = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    result = planned(lb(ports=[{"port": 443}], **check(type="HTTPS", tls={"caBundle": bundle})))
    problem = the_problem(result)
    assert problem.reason == "CaBundleInvalid"
    wants = "LoadBalancer/web should have certificates of authorities (PEM) in spec.healthCheck.tls.caBundle"
    assert problem.message.startswith(f"{wants}, but they cannot be read (")
    assert problem.message.endswith("nothing is checked")
    assert the_plan(result).check is None


def test_server_ids_are_ends_of_addresses() -> None:
    backends = [{"address": "2001:db8::1:2"}, {"address": "2001:db8::1:3"}]
    quic = {"quic": {"offset": 1, "length": 2}, "ports": [{"port": 443, "protocol": "UDP"}]}
    assert [b.server_id for b in the_plan(planned(lb(backends=backends, **quic))).backends] == ["0002", "0003"]
    result = planned(lb(backends=[*backends, {"address": "2001:db8::2:2"}], **quic))
    assert [b.server_id for b in the_plan(result).backends] == ["", "0003", ""]
    assert the_problem(result).reason == "ServerIdTwice"


@pytest.mark.parametrize(
    "spec", [{"ports": [{"port": 80, "targetPort": 8080}]}, {"backends": [{"address": "2001:db8::1"}]}]
)
def test_what_l2_cannot_do(spec: dict[str, Any]) -> None:
    result = planned(lb(forwarding={"mode": "L2"}, **spec))
    assert the_problem(result).reason == "ModeUnfit"


def test_more_backends_than_slots() -> None:
    backends = [{"address": f"2001:db8::{number:x}"} for number in range(1, 301)]
    result = planned(lb(backends=backends, maglev={"tableSize": 251}))
    assert (the_problem(result).reason, len(the_plan(result).backends)) == ("TableTooSmall", 251)


def test_a_vip_that_an_older_object_has() -> None:
    result = planned(lb("old", "a", age=2), lb("new", "b", age=1))
    problem = the_problem(result)
    assert (problem.ref.name, problem.reason) == ("new", "Conflicted")
    assert "wants 192.0.2.80 port 80/TCP (spec.vips[0]), but LoadBalancer/old is older" in problem.message
    assert not result.nodes["b"].balancers


def test_two_objects_may_share_an_address_by_ports() -> None:
    result = planned(lb("http", age=2), lb("https", age=1, ports=[{"port": 443}]))
    assert not result.problems
    assert len(result.nodes["a"].balancers) == 2


def test_balancers_that_lead_to_each_other() -> None:
    result = planned(lb("old", age=2), lb("new", age=1, vips=["203.0.113.11"], backends=[{"address": "192.0.2.80"}]))
    problem = the_problem(result)
    assert (problem.ref.name, problem.reason) == ("new", "Conflicted")
    assert "would make a loop" in problem.message
    assert len(result.nodes["a"].balancers) == 1
    apart = planned(lb("old", "a"), lb("new", "b", vips=["203.0.113.11"], backends=[{"address": "203.0.113.99"}]))
    assert not apart.problems  # a tier before another


def test_only_nodes_that_work_announce() -> None:
    ready = tuple(NodeInfo(name, {"name": name}, ready=name != "b") for name in "abcdef")
    item = lb("web", *"abcdef", announce="L2")
    made = the_plan(plan(Snapshot((item,), ready, digests=DIGESTS)))
    (vip,) = made.vips
    assert len(vip.announcers) == MAX_ANNOUNCERS
    assert "b" not in vip.announcers
    assert the_plan(planned(lb())).vips[0].announcers == ()


def test_a_node_that_goes_moves_only_its_own_addresses() -> None:
    names = [f"n{number}" for number in range(8)]
    vips = [f"192.0.2.{number}" for number in range(200)]
    before = {vip: preference(vip, names)[0] for vip in vips}
    after = {vip: preference(vip, names[1:])[0] for vip in vips}
    moved = {vip for vip in vips if before[vip] != after[vip]}
    assert moved == {vip for vip in vips if before[vip] == "n0"}
    assert all(preference(vip, names)[1] == after[vip] for vip in moved)


def test_nodes_that_are_backends_unpack_unless_they_balance() -> None:
    known = tuple(NodeInfo(name, {"name": name}, addresses=(f"10.0.0.{n}",)) for n, name in enumerate("abc", 1))
    backends = [{"address": f"10.0.0.{number}"} for number in (1, 2, 9)]
    forwarding = {"outerSourceIPv4CIDR": "10.9.0.0/16"}
    digests = {**DIGESTS, "sg_decap": "sha256:" + "e" * 64, "sg_decap_xdp": "sha256:" + "f" * 64}
    result = plan(Snapshot((lb(backends=backends, forwarding=forwarding),), known, digests=digests))
    assert not result.problems
    assert result.nodes["a"].decap is None  # it balances
    assert result.nodes["c"].decap is None  # it has no backend
    decap = result.nodes["b"].decap
    assert decap is not None
    assert decap.roles == (("192.0.2.80", 2), ("10.0.0.2", 1))
    assert decap.sources == (PrefixPlan("10.0.0.1", 128), PrefixPlan("10.9.0.0", 112))
    assert result.selected[WEB] == result.programmed[WEB] == ("a", "b")
    spec = Renderer().render(result.nodes["b"])
    assert [(item.device, item.address) for item in spec.addresses] == [("lo", "192.0.2.80/32")]
    assert [item.name for item in spec.objects] == ["sg_decap", "sg_decap_xdp"]
    assert (
        plan(Snapshot((lb(backends=backends, forwarding={"mode": "L2"}),), known, digests=digests)).nodes["b"] == EMPTY
    )


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("loadbalancer*/*.yaml")), ids=lambda path: path.stem)
def test_examples_are_planned(path: Path) -> None:
    parsed = parse_object(yaml.safe_load(path.read_text()))
    assert isinstance(parsed, UserObject)
    edge = (NodeInfo("edge", {"sixgate.io/edge": "true"}),)
    ready = Endpoints(KEY, (Endpoint("2001:db8::1", ports=(HTTP,)),))
    result = plan(Snapshot((parsed,), edge, endpoints={KEY: ready}, digests=DIGESTS))
    assert not result.problems
    assert Renderer().render(result.nodes["edge"]).balancers[0].backends


def test_the_page_shows_commands_that_exist() -> None:
    """Every `sixgate` command of docs/loadbalancer.md is one of the command line."""
    page = (ROOT / "docs" / "loadbalancer.md").read_text()
    words = {tuple(found.split()[:2]) for found in re.findall(r"sixgate ((?:lb \w+|decap|standalone|plan))", page)}
    group = typer.main.get_command(build())
    assert isinstance(group, typer.core.TyperGroup)
    for name, *rest in words:
        command = group.commands[name]
        assert not rest or rest[0] in command.commands  # type: ignore[attr-defined]
    assert {("lb", "list"), ("lb", "show"), ("lb", "flows"), ("lb", "maglev"), ("decap",)} <= words
