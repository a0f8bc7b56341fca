"""Debian's Prometheus scrapes a gateway with real traffic; every panel and every alert is evaluated against it."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from e2e.lab.natlab import CLIENT4, CLIENT6, SERVER4, embed
from e2e.lab.topology import GATEWAY
from sixgate.node.bpf import missing_permission
from tests.netns.nat import Stage, nat64, staged
from tests.netns.streams import wait_for
from tests.netns.test_metrics_live import BALANCER, PORT, VIP
from tools import gen_dashboards

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "charts" / "sixgate" / "files" / "alerts.yaml"
SERVED = 9490
PATIENCE_S = 120.0


class Prometheus:
    """One server in the gateway's namespace, asked over its API."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.directory = stage.lab.workdir / "prometheus"
        self.directory.mkdir(mode=0o777)
        configuration = {
            "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [{"job_name": "sixgate", "static_configs": [{"targets": [f"127.0.0.1:{PORT}"]}]}],
        }
        file = self.directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(configuration))
        words = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={self.directory / 'data'}"]
        with (self.directory / "log").open("w") as log:
            self.process = stage.lab.spawn(
                GATEWAY, [*words, f"--web.listen-address=127.0.0.1:{SERVED}"], stdout=log, stderr=subprocess.STDOUT
            )

    def ask(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{SERVED}/api/v1/{path}?{urllib.parse.urlencode(query)}"

        def read() -> Any:
            try:
                with urllib.request.urlopen(url, timeout=10) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                return json.load(error)

        return self.stage.lab.call(GATEWAY, read)

    def value(self, query: str) -> float | None:
        """Of the first series; None where there is none yet, or no answer."""
        try:
            found = self.ask("query", query=query)["data"]["result"]
        except OSError:
            return None
        return float(found[0]["value"][1]) if found else None

    def wait(self, query: str, least: float) -> float:
        deadline = time.monotonic() + PATIENCE_S
        found = None
        while time.monotonic() < deadline:
            found = self.value(query)
            if found is not None and found >= least:
                return found
            time.sleep(0.2)
        raise AssertionError(f"{query} is {found}\n{(self.directory / 'log').read_text()[-2000:]}")


@pytest.fixture(scope="module")
def scraped() -> Iterator[Prometheus]:
    if reason := missing_permission():
        pytest.skip(reason)
    objects = (nat64(pools=[{"cidr": "198.51.100.0/30"}]), BALANCER)
    with staged(*objects, more=("--metrics", f"127.0.0.1:{PORT}")) as stage:
        stage.lab.ip(GATEWAY, "link set lo up")
        made = Prometheus(stage)
        traffic(stage)
        made.wait('sixgate_nat_packets_total{direction="from_clients"}', 5)
        traffic(stage)  # a rate needs two samples that differ
        made.wait('sixgate_nat_packets_total{direction="from_clients"}', 10)
        yield made
        made.process.terminate()
        made.process.wait(timeout=60)


def traffic(stage: Stage) -> None:
    """Five packets of a session, and five to a virtual address."""
    client = stage.udp(CLIENT6)
    for _ in range(5):
        client.sendto(b"question", (embed(SERVER4.ip), 4500))
        stage.udp(CLIENT4).sendto(b"question", (VIP, 53))
    stage.close_sockets()


def test_what_prometheus_has_is_what_was_sent(scraped: Prometheus) -> None:
    assert scraped.value('sixgate_nat_packets_total{object="lab",direction="from_clients"}') == 10
    assert scraped.wait(f'sixgate_lb_packets_total{{vip="{VIP}"}}', 10) == 10
    # One scrape may take a loaded machine longer than it should; the next one does not.
    assert scraped.wait("up", 1) == 1
    wait_for(lambda: _health(scraped) == ("up", ""), f"the gateway is scraped, and not: {_health(scraped)}")


def _health(scraped: Prometheus) -> tuple[str, str]:
    (target,) = scraped.ask("targets")["data"]["activeTargets"]
    return target["health"], target["lastError"]


@pytest.mark.parametrize("uid", sorted(gen_dashboards.DASHBOARDS))
def test_every_query_of_a_dashboard_is_answered(scraped: Prometheus, uid: str) -> None:
    for panel in gen_dashboards.DASHBOARDS[uid][1]:
        for query, _ in panel.queries:
            asked = query.replace("$__rate_interval", "30s").replace("$instance", ".*")
            answer = scraped.ask("query", query=asked)
            assert answer["status"] == "success", f"{panel.title}: {asked}: {answer.get('error')}"


@pytest.mark.parametrize(
    ("uid", "title"),
    [
        ("sixgate-overview", "Nodes ready"),
        ("sixgate-overview", "Packets by verdict"),
        ("sixgate-overview", "Objects by state"),
        ("sixgate-overview", "Time to mend a node, 99 %"),
        ("sixgate-nat", "Sessions"),
        ("sixgate-nat", "New sessions"),
        ("sixgate-nat", "Sessions of those that are allowed"),
        ("sixgate-balancer", "Traffic by VIP"),
        ("sixgate-balancer", "Share of bytes by backend"),
        ("sixgate-balancer", "Backends"),
    ],
)
def test_a_panel_shows_the_traffic(scraped: Prometheus, uid: str, title: str) -> None:
    (panel,) = (panel for panel in gen_dashboards.DASHBOARDS[uid][1] if panel.title == title)
    query = panel.queries[0][0].replace("$__rate_interval", "1m").replace("$instance", ".*")
    assert scraped.wait(query, 0.0) >= 0


def test_alerts_are_loaded_and_evaluate(scraped: Prometheus) -> None:
    deadline = time.monotonic() + PATIENCE_S
    rules: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        rules = scraped.ask("rules")["data"]["groups"][0]["rules"]
        if all(rule["health"] != "unknown" for rule in rules):
            break
        time.sleep(0.2)
    assert {rule["health"] for rule in rules} == {"ok"}, [rule.get("lastError") for rule in rules]
    firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
    assert firing == set()


def test_promtool_has_nothing_to_say_about_the_metrics(scraped: Prometheus) -> None:
    def read() -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=10) as answer:
            return bytes(answer.read())

    text = scraped.stage.lab.call(GATEWAY, read)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    said = [line for line in done.stderr.decode().splitlines() if re.match(r"sixgate_", line)]
    assert said == []
