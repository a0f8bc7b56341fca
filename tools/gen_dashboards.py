"""Writes the dashboards of the chart from a table of panels: what stands on them is reviewed here, not in JSON.

python tools/gen_dashboards.py
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parents[1] / "charts" / "sixgate" / "files" / "dashboards"
_WIDTH, _HEIGHT, _COLUMNS = 12, 8, 2
_SELECTED = 'instance=~"$instance"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: queries with what each line is called. `stat` shows the last value alone."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    stat: bool = False


def _rate(metric: str, by: str, more: str = "") -> str:
    chosen = f"{more},{_SELECTED}" if more else _SELECTED
    return f"sum by ({by}) (rate({metric}_total{{{chosen}}}[$__rate_interval]))"


def _now(metric: str) -> str:
    return f"{metric}{{{_SELECTED}}}"


DASHBOARDS: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "sixgate-overview": (
        "sixgate / Overview",
        (
            Panel("Nodes ready", "none", ((f"sum({_now('sixgate_node_ready')})", "ready"),), stat=True),
            Panel("Replicas that lead", "none", (("sum(sixgate_operator_leader)", "leaders"),), stat=True),
            Panel("Packets by verdict", "pps", ((_rate("sixgate_packets", "verdict"), "{{verdict}}"),)),
            Panel("Drops by reason", "pps", ((_rate("sixgate_packets", "reason", 'verdict="drop"'), "{{reason}}"),)),
            Panel(
                "Traffic by object",
                "Bps",
                ((_rate("sixgate_object_bytes", "kind, name, direction"), "{{kind}}/{{name}} {{direction}}"),),
            ),
            Panel(
                "Handed to the slow path",
                "pps",
                ((_rate("sixgate_packets", "reason", 'verdict="slow"'), "{{reason}}"),),
            ),
            Panel("Objects by state", "none", ((f"sum by (state) ({_now('sixgate_object_state')})", "{{state}}"),)),
            Panel(
                "Time to mend a node, 99 %",
                "s",
                (
                    (
                        "histogram_quantile(0.99, sum by (le, instance) (rate(sixgate_node_reconcile_seconds_bucket"
                        f"{{{_SELECTED}}}[$__rate_interval])))",
                        "{{instance}}",
                    ),
                ),
            ),
            Panel(
                "Largest TCP super-packets",
                "bytes",
                ((_now("sixgate_bigtcp_size_bytes"), "{{device}} {{family}} {{limit}}"),),
            ),
            Panel("Memory", "bytes", ((_now("process_resident_memory_bytes"), "{{instance}}"),)),
        ),
    ),
    "sixgate-nat": (
        "sixgate / Stateful NAT",
        (
            Panel(
                "Sessions",
                "none",
                (
                    (_now("sixgate_nat_sessions"), "{{object}} {{instance}}"),
                    (_now("sixgate_nat_half_open_sessions"), "half-open {{object}} {{instance}}"),
                ),
            ),
            Panel(
                "Sessions of those that are allowed",
                "percentunit",
                (
                    (
                        f"{_now('sixgate_nat_sessions')} / ({_now('sixgate_nat_max_sessions')} > 0)",
                        "{{object}} {{instance}}",
                    ),
                ),
            ),
            Panel("New sessions", "ops", ((_rate("sixgate_nat_new_sessions", "object"), "{{object}}"),)),
            Panel(
                "Refused sessions", "ops", ((_rate("sixgate_nat_refused", "object, reason"), "{{object}} {{reason}}"),)
            ),
            Panel(
                "Mappings of ports",
                "percentunit",
                ((f"{_now('sixgate_nat_mappings')} / ({_now('sixgate_nat_ports')} > 0)", "{{object}} {{instance}}"),),
            ),
            Panel(
                "Dropped without a session",
                "pps",
                ((_rate("sixgate_nat_dropped", "object, reason"), "{{object}} {{reason}}"),),
            ),
            Panel("Traffic", "Bps", ((_rate("sixgate_nat_bytes", "object, direction"), "{{object}} {{direction}}"),)),
            Panel(
                "DNS64 resolvers that answer",
                "none",
                (
                    (_now("sixgate_dns64_resolver_ready"), "{{name}} {{instance}}"),
                    ('sixgate_dns64_resolver_pods{state="ready"}', "{{name}}"),
                ),
            ),
        ),
    ),
    "sixgate-balancer": (
        "sixgate / LoadBalancer",
        (
            Panel(
                "Traffic by VIP", "Bps", ((f"topk(20, {_rate('sixgate_lb_bytes', 'name, vip')})", "{{name}} {{vip}}"),)
            ),
            Panel(
                "New flows by VIP",
                "ops",
                ((f"topk(20, {_rate('sixgate_lb_new_flows', 'name, vip')})", "{{name}} {{vip}}"),),
            ),
            Panel(
                "Drops by VIP", "pps", ((f"topk(20, {_rate('sixgate_lb_drops', 'name, vip')})", "{{name}} {{vip}}"),)
            ),
            Panel(
                "Backends", "none", ((f"sum by (name, state) ({_now('sixgate_lb_backends')})", "{{name}} {{state}}"),)
            ),
            Panel(
                "Backends that do not work",
                "none",
                ((f"count by (name, backend) ({_now('sixgate_lb_backend_up')} == 0)", "{{name}} {{backend}}"),),
            ),
            Panel(
                "Share of bytes by backend",
                "Bps",
                ((f"topk(20, {_rate('sixgate_lb_backend_bytes', 'name, backend')})", "{{name}} {{backend}}"),),
            ),
        ),
    ),
    "sixgate-egress": (
        "sixgate / Egress",
        (
            Panel(
                "Owner of each pair",
                "none",
                ((f"{_now('sixgate_egress_owned')} == 1", "{{name}} {{ipv4}} {{instance}}"),),
            ),
            Panel("Traffic", "Bps", ((_rate("sixgate_egress_bytes", "name, direction"), "{{name}} {{direction}}"),)),
            Panel("Dropped", "pps", ((_rate("sixgate_egress_dropped", "name"), "{{name}}"),)),
            Panel("Pods", "none", ((f"sum by (name) ({_now('sixgate_egress_pods')})", "{{name}}"),)),
            Panel("Connections", "none", ((f"sum by (name) ({_now('sixgate_egress_sessions')})", "{{name}}"),)),
            Panel(
                "Changes of owner",
                "none",
                ((f"max by (name, ipv4) ({_now('sixgate_egress_epoch')})", "{{name}} {{ipv4}}"),),
            ),
        ),
    ),
}


def panel(number: int, item: Panel) -> dict[str, Any]:
    """In the form of Grafana's schema 39."""
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "id": number + 1,
        "type": "stat" if item.stat else "timeseries",
        "title": item.title,
        "datasource": source,
        "gridPos": {
            "x": number % _COLUMNS * _WIDTH,
            "y": number // _COLUMNS * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": item.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": query, "legendFormat": legend, "datasource": source}
            for at, (query, legend) in enumerate(item.queries)
        ],
    }


def dashboard(uid: str, title: str, panels: tuple[Panel, ...]) -> dict[str, Any]:
    """A dashboard with a choice of data source and of instances."""
    return {
        "uid": uid,
        "title": title,
        "tags": ["sixgate"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "type": "datasource", "query": "prometheus", "label": "Data source"},
                {
                    "name": "instance",
                    "type": "query",
                    "label": "Instance",
                    "datasource": {"type": "prometheus", "uid": "${source}"},
                    "query": {"query": "label_values(sixgate_build_info, instance)", "refId": "A"},
                    "includeAll": True,
                    "multi": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                    "refresh": 2,
                },
            ]
        },
        "panels": [panel(number, item) for number, item in enumerate(panels)],
    }


def texts() -> dict[str, str]:
    """File name to contents."""
    return {
        f"{uid}.json": json.dumps(dashboard(uid, title, panels), indent=1, ensure_ascii=False) + "\n"
        for uid, (title, panels) in DASHBOARDS.items()
    }


def main() -> None:
    for name, text in texts().items():
        (TARGET / name).write_text(text)


if __name__ == "__main__":
    main()
