"""What balancing costs a node that does not balance: maps of one entry, which grow beside traffic and shrink again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.lab.sixgate import NODE
from sixgate.node.bpf.map import Map
from sixgate.node.lb.layout import MAX_BACKEND
from sixgate.plan.balancer import ROOMY
from tests.netns.test_lb_live import BACKENDS, Site, open_lines, say, site

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["site"]  # a fixture

GATEWAY = {
    "apiVersion": "sixgate.io/v1alpha1",
    "kind": "NAT46Gateway",
    "metadata": {"name": "gw"},
    "spec": {
        "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": NODE}},
        "prefix": "2001:db8:64::/96",
        "stateless": {"ipv4CIDRs": ["198.51.100.0/24"]},
    },
}


def entries(site: Site) -> Mapping[str, int]:
    """Room of the balancer's maps as they are pinned."""
    made = {}
    for name in ROOMY:
        with Map.from_pin(site.sixgate.bpffs / "maps" / name) as each:
            made[name] = each.info.max_entries
    return made


def memlock(site: Site) -> int:
    """Bytes that the kernel holds for the balancer's maps, as it says itself."""
    total = 0
    for pin in sorted(Path(site.sixgate.bpffs / "maps").glob("sg_lb_*")):
        with Map.from_pin(pin) as each:
            told = Path(f"/proc/self/fdinfo/{each.fd}").read_text().split()
            total += int(told[told.index("memlock:") + 1])
    return total


def test_maps_grow_with_the_first_balancer_and_shrink_after_the_last(site: Site) -> None:
    (site.manifests / "gw.json").write_text(json.dumps(GATEWAY))
    site.sixgate.start()
    site.revision = site.sixgate.wait_ready()
    assert set(entries(site).values()) == {1}
    small = memlock(site)
    site.put()
    assert site.net.everyone() == set(BACKENDS)
    assert entries(site)["sg_lb_backend"] == MAX_BACKEND
    assert min(entries(site).values()) > 1
    assert memlock(site) > 50 * small
    lines, before = open_lines(site)
    try:
        # Another balancer comes and goes: the maps stay, and so do connections.
        site.put(6, "other")
        (site.manifests / "other.json").unlink()
        site.wait(lambda: len(json.loads(site.sixgate.command(["lb", "list", "-o", "json"]).stdout)) == 1, "it stays")
        assert [say(line) for line in lines] == [f"{name} 2" for name in before]
    finally:
        for line in lines:
            line.kill()
            line.wait()
    (site.manifests / "web.json").unlink()
    site.wait(lambda: set(entries(site).values()) == {1}, "the maps do not shrink")
    site.revision = site.sixgate.wait_ready(revision_not=site.revision)
    assert json.loads(site.sixgate.command(["lb", "list", "-o", "json"]).stdout) == []
    assert site.net.ask(timeout_s=1) == ""
    site.put()
    assert site.net.everyone() == set(BACKENDS)
