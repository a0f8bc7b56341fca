"""EndpointSlices: which are watched, what is read of them, how those of one Service are joined."""

from __future__ import annotations

from typing import Any

import pytest

from sixgate.controller.store import Store
from sixgate.controller.surroundings import (
    MAX_NAMES,
    MAX_NAMESPACES,
    SERVICE_NAME,
    Scope,
    joined,
    read_slice,
    scopes_of,
)
from sixgate.plan import Endpoint, EndpointPort, Endpoints, ServiceKey

WEB = ServiceKey("shop", "web")
PORT = EndpointPort("http", "TCP", 8080)


def raw(*endpoints: dict[str, Any], ports: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "shop", "name": "web-abcde", "labels": {SERVICE_NAME: "web"}},
        "addressType": "IPv6",
        "endpoints": list(endpoints),
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}] if ports is None else ports,
        **more,
    }


@pytest.mark.parametrize(
    ("conditions", "wanted"),
    [
        ({}, (True, True, False)),
        (None, (True, True, False)),
        ({"ready": True, "serving": True, "terminating": False}, (True, True, False)),
        ({"ready": False}, (False, False, False)),
        ({"ready": False, "serving": True, "terminating": True}, (False, True, True)),
        ({"ready": False, "serving": False, "terminating": True}, (False, False, True)),
    ],
)
def test_conditions_that_are_missing_mean_what_the_api_says(conditions: Any, wanted: tuple[bool, bool, bool]) -> None:
    (found,) = read_slice(raw({"addresses": ["2001:db8::1"], "conditions": conditions})).endpoints
    assert (found.ready, found.serving, found.terminating) == wanted


@pytest.mark.parametrize(
    ("document", "wanted"),
    [
        (raw({"addresses": ["2001:db8::1", "2001:db8::2"], "nodeName": "n1"}),
         (Endpoint("2001:db8::1", "n1", ports=(PORT,)),)),
        (raw({"addresses": ["2001:db8::1"]}, ports=[{"port": 53, "protocol": "UDP"}, {"name": "all", "port": None}]),
         (Endpoint("2001:db8::1", ports=(EndpointPort("", "UDP", 53),)),)),
        (raw({"addresses": ["name.example"]}, addressType="FQDN"), ()),
        (raw({"addresses": []}), ()),
        (raw(endpoints=None), ()),
    ],
)  # fmt: skip
def test_what_is_read_of_a_slice(document: dict[str, Any], wanted: tuple[Endpoint, ...]) -> None:
    found = read_slice(document)
    assert found.service == WEB
    assert found.endpoints == wanted


def test_an_endpoint_in_two_slices_counts_once_and_as_the_better() -> None:
    leaving = raw({"addresses": ["2001:db8::1"], "conditions": {"ready": False, "terminating": True}})
    coming = raw({"addresses": ["2001:db8::1"]}, {"addresses": ["2001:db8::2"]}, ports=[{"name": "x", "port": 1}])
    both = [read_slice(leaving), read_slice(coming)]
    found = joined(WEB, both)
    other = EndpointPort("x", "TCP", 1)
    assert found == Endpoints(
        WEB, (Endpoint("2001:db8::1", ports=(PORT, other)), Endpoint("2001:db8::2", ports=(other,)))
    )
    assert joined(WEB, both[::-1]) == found


def test_watches_name_their_services() -> None:
    api, shop = ServiceKey("api", "web"), ServiceKey("shop", "cart")
    assert scopes_of([WEB, shop, api]) == {
        Scope("api", f"{SERVICE_NAME} in (web)"): frozenset({api}),
        Scope("shop", f"{SERVICE_NAME} in (cart,web)"): frozenset({WEB, shop}),
    }
    assert scopes_of([]) == {}


def test_very_many_services_share_a_wider_watch() -> None:
    many = [ServiceKey("shop", f"s{number}") for number in range(MAX_NAMES + 1)]
    assert scopes_of(many) == {Scope("shop", SERVICE_NAME): frozenset(many)}
    scattered = [ServiceKey(f"ns{number}", "web") for number in range(MAX_NAMESPACES + 1)]
    assert scopes_of(scattered) == {Scope("", f"{SERVICE_NAME} in (web)"): frozenset(scattered)}


def balancer(name: str, version: int, service: str, **meta: Any) -> dict[str, Any]:
    spec = {
        "nodeSelector": {"matchLabels": {"a": "b"}},
        "vips": ["192.0.2.1"],
        "ports": [{"port": 80}],
        "service": {"namespace": "shop", "name": service},
    }
    return {
        "apiVersion": "sixgate.io/v1alpha1",
        "kind": "LoadBalancer",
        "metadata": {"name": name, "uid": name, "generation": version, "resourceVersion": str(version), **meta},
        "spec": spec,
    }


def test_the_store_counts_who_refers_to_a_service() -> None:
    store = Store()
    store.put(balancer("a", 1, "web"))
    store.put(balancer("b", 2, "web"))
    assert store.services == {WEB}
    store.put(balancer("a", 3, "cart"))
    assert store.services == {WEB, ServiceKey("shop", "cart")}
    store.put(balancer("b", 4, "web", deletionTimestamp="2026-01-01T00:00:00Z"))
    assert store.services == {ServiceKey("shop", "cart")}
    store.drop("LoadBalancer", "b", 5)
    store.drop("LoadBalancer", "a", 6)
    assert store.services == frozenset()


def test_endpoints_are_news_only_when_they_change() -> None:
    store = Store()
    assert store.put_endpoints({WEB: Endpoints(WEB)})
    before = store.inputs
    assert not store.put_endpoints({WEB: Endpoints(WEB)})
    assert store.inputs == before
    assert store.put_endpoints({WEB: Endpoints(WEB, (Endpoint("2001:db8::1"),))})
    assert store.snapshot({}).endpoints[WEB].endpoints == (Endpoint("2001:db8::1"),)
    assert store.put_service_cidrs(("10.96.0.0/16",))
    assert not store.put_service_cidrs(("10.96.0.0/16",))
    assert store.snapshot({}).service_cidrs == ("10.96.0.0/16",)
