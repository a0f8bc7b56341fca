"""Metrics: names by convention, values as the parts have them, and a part that fails costs nobody else's metrics."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sixgate import __version__
from sixgate.api.nodeconfig import BigTcpReport, DeviceReport, ItemResult, NodeConfigSpec, NodeConfigStatus
from sixgate.errors import BpfError, SixgateError
from sixgate.exposition import Exposition, MetricsServer
from sixgate.metrics import Columns, Family, Timing
from sixgate.node.bpf.layouts import SgReason
from sixgate.node.metrics import Meter, NodeMetrics, object_counters
from sixgate.node.verdicts import meaning_of, verdict_of

if TYPE_CHECKING:
    from collections.abc import Iterator


STATUS = NodeConfigStatus(
    ready=True,
    objects=(ItemResult(owner="NAT46Gateway/edge", state="Programmed"),),
    devices=(DeviceReport(name="eth0", ifindex=2, hooks={"tc-ingress": "tcx", "xdp": "xdp-native"}),),
    big_tcp=(BigTcpReport(device="eth0", ipv6_wanted=196608, ipv6_gso=131072),),
)


def samples(served: Exposition) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(served.text().decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(found: dict[tuple[str, frozenset[tuple[str, str]]], float], metric: str, /, **labels: str) -> float | None:
    return found.get((metric, frozenset(labels.items())))


def test_a_timing_counts_each_value_in_the_bucket_that_holds_it() -> None:
    timing = Timing("sixgate_work_seconds", "Work.", bounds=(0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7.0):
        timing.observe(seconds)
    assert timing.buckets() == [("0.1", 2), ("1.0", 3), ("+Inf", 4)]
    assert timing.sum_s == pytest.approx(7.65)


def test_a_node_tells_its_report(tmp_path: Path) -> None:
    metrics = NodeMetrics(tmp_path, Meter(), NodeConfigSpec(format_version=1), STATUS)
    metrics.meter.applied(0.2, True)
    metrics.meter.applied(0.4, False)
    found = samples(Exposition({"the node": metrics}))
    assert value(found, "sixgate_build_info", version=__version__) == 1
    assert value(found, "sixgate_node_ready") == 1
    assert value(found, "sixgate_node_reconcile_failures_total") == 1
    assert value(found, "sixgate_node_reconcile_seconds_count") == 2
    assert value(found, "sixgate_object_state", kind="NAT46Gateway", name="edge", state="Programmed") == 1
    assert value(found, "sixgate_hook_attached", device="eth0", hook="xdp", mechanism="xdp-native") == 1
    assert value(found, "sixgate_bigtcp_size_bytes", device="eth0", family="ipv6", limit="gso") == 131072
    assert value(found, "sixgate_scrape_errors_total", part="the node") == 0


def test_a_part_that_cannot_be_read_costs_only_its_own_metrics() -> None:
    def broken() -> Iterator[Family | Timing]:
        yield Family("gauge", "sixgate_half", "Half.", (), (((), 1.0),))
        raise BpfError("The map sg_metrics cannot be read.")

    whole = Family("gauge", "sixgate_whole", "Whole.", (), (((), 2.0),))
    served = Exposition({"the maps": broken, "the rest": lambda: (whole,)})
    found = samples(served)
    assert value(found, "sixgate_half") is None
    assert value(found, "sixgate_whole") == 2
    assert value(found, "sixgate_scrape_errors_total", part="the maps") == 1
    assert value(samples(served), "sixgate_scrape_errors_total", part="the maps") == 2


def test_names_follow_the_conventions(tmp_path: Path) -> None:
    served = Exposition({"the node": NodeMetrics(tmp_path, Meter(), None, STATUS)})
    for family in served.families():
        assert re.fullmatch(r"sixgate_[a-z]+(_[a-z0-9]+)*", family.name), family.name
        assert not family.name.endswith("_total"), family.name
        assert family.text.endswith("."), family.name


def test_every_reason_has_a_verdict_and_a_meaning() -> None:
    for reason in SgReason:
        if reason.name == "SG_REASON_MAX":
            continue
        verdict, why = verdict_of(reason.name)
        assert verdict in {"pass", "ok", "slow", "drop"}, reason.name
        assert why, reason.name
        assert meaning_of(reason.name), reason.name
    assert meaning_of("SG_DROP_OF_A_NEWER_VERSION") == ""


def test_counters_of_gateways_get_the_names_of_their_owners() -> None:
    spec = NodeConfigSpec.model_validate(
        {
            "formatVersion": 1,
            "tables": [
                {
                    "owners": ["NAT46Gateway/a", "NAT46Gateway/b"],
                    "map": "sg_nat",
                    "swap": True,
                    "outerKey": 0,
                    "entries": [{"key": 0, "value": {"gw": [{"stat": 7}, {"stat": 3}]}}],
                }
            ],
        }
    )
    assert object_counters(spec) == {"sg_nat_stats": {"7": "NAT46Gateway/a", "3": "NAT46Gateway/b"}}


def test_the_endpoint_serves_and_a_taken_address_is_said_in_a_sentence() -> None:
    served = Exposition({})
    server = MetricsServer("127.0.0.1", 0, served)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=60) as answer:
            assert b"sixgate_build_info" in answer.read()
        with pytest.raises(SixgateError, match=f"should be served at 127.0.0.1 port {server.port}"):
            MetricsServer("127.0.0.1", server.port, served)
    finally:
        server.close()


def test_labels_are_escaped_and_nothing_else() -> None:
    odd = Family("counter", "sixgate_odd", "Odd.", ("a", "b"), ((('say "hi"', "x\\y\nz"), 1.0), (("plain", ""), 2.5)))
    found = samples(Exposition({"odd": lambda: (odd,)}))
    assert value(found, "sixgate_odd_total", a='say "hi"', b="x\\y\nz") == 1
    assert value(found, "sixgate_odd_total", a="plain", b="") == 2.5


def test_columns_are_written_as_a_family_is_whatever_was_kept_of_them() -> None:
    told: list[tuple[tuple[tuple[str, ...], ...], tuple[float, ...]]] = [
        ((('say "hi"', "x"), ("b", "")), (1, 2.5)),
        ((), ()),
        ((("b", "y"), ("c", "z"), ("d", "w")), (3, 0, 1 << 40)),
    ]
    served = Exposition({"odd": lambda: (Columns("counter", "sixgate_odd", "Odd.", ("a", "b"), *now),)})
    for now in told:
        expected = {
            ("sixgate_odd_total", frozenset(zip("ab", key, strict=True))): v for key, v in zip(*now, strict=True)
        }
        for _ in range(2):
            found = {key: v for key, v in samples(served).items() if key[0] == "sixgate_odd_total"}
            assert found == expected
