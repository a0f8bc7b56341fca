"""LoadBalancers in standalone mode with real servers behind them."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab.balance import BALANCER, CLIENT, VIP4, VIP6, BalancerLab, address
from e2e.lab.run import LabRun
from e2e.lab.sixgate import NODE, Sixgate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BACKENDS = ("b1", "b2", "b3")
VIPS = pytest.mark.parametrize("family", [4, 6])


def vip(family: int) -> str:
    return VIP4 if family == 4 else VIP6


class Site:
    """One balancer on its lab; `put` writes what it shall do."""

    def __init__(self, lab: LabRun) -> None:
        self.net = BalancerLab(lab, BACKENDS)
        self.net.build()
        self.manifests = lab.workdir / "manifests"
        self.manifests.mkdir()
        self.sixgate = Sixgate(lab, self.manifests, role=BALANCER)
        self.revision = ""

    def put(self, family: int = 4, name: str = "web", **spec: Any) -> None:
        """Writes a LoadBalancer and waits until the node has it."""
        document = {
            "apiVersion": "sixgate.io/v1alpha1",
            "kind": "LoadBalancer",
            "metadata": {"name": name},
            "spec": {
                "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": NODE}},
                "vips": [vip(family)],
                "ports": [{"port": 80}],
                "forwarding": {"mode": "L2"},
                "acceleration": "Disabled",
                "backends": [{"address": address(role, family)} for role in BACKENDS],
                **spec,
            },
        }
        (self.manifests / f"{name}.json").write_text(json.dumps(document))
        if not self.sixgate.running():
            self.sixgate.start()
        self.revision = self.sixgate.wait_ready(revision_not=self.revision)
        assert not self.sixgate.status()["problems"]

    def report(self) -> dict[str, Any]:
        (row,) = json.loads((self.sixgate.state_dir / "status.json").read_text())["status"]["balancers"]
        return dict(row)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, f"{what}; in the log:\n{self.sixgate.log_tail()}"
            time.sleep(0.05)


@pytest.fixture
def site() -> Iterator[Site]:
    with LabRun() as lab:
        made = Site(lab)
        for role in BACKENDS:
            made.net.serve(role)
        yield made


@VIPS
def test_flows_are_spread_over_all_backends(site: Site, family: int) -> None:
    site.put(family)
    told = Counter(site.net.answers(60, vip(family)))
    assert set(told) == set(BACKENDS)
    assert site.net.lab.run(CLIENT, ["ping", "-c1", "-W2", vip(family)]).returncode == 0
