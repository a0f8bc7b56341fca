"""`sixgate bigtcp` as a user types it: real transfers, and what devices have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sixgate.node.netlink import Netlink
from sixgate.node.statedir import StateDir
from tools.build_bpf import build_all

if TYPE_CHECKING:
    from tests.netns.conftest import Namespace

ROOT = Path(__file__).resolve().parents[2]
OBJECTS = ROOT / "build" / "bpf"
POLICY = yaml.safe_load((ROOT / "examples" / "bigtcppolicy" / "storage.yaml").read_text())


def sixgate(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sixgate", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT / "operator", timeout=120)


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


def test_the_test_proves_it_and_remembers_what_it_found(netns: Namespace, tmp_path: Path) -> None:
    build_all(ROOT / "bpf_src", OBJECTS)
    words = ["--state-dir", str(tmp_path / "state"), "--objects", str(OBJECTS), "--seconds", "0.2"]
    done = sixgate("bigtcp", "test", *words, "-o", "json")
    assert done.returncode == 0, done.stderr
    ways: dict[tuple[str, str], dict[str, Any]] = {(w["way"], w["family"]): w for w in json.loads(done.stdout)}
    assert {name for name, _ in ways} >= {"direct", "forwarded", "redirected"}
    assert ways["redirected", "IPv6"]["withBigTcp"]["packetsOver64KB"] > 0
    for family in ("IPv6", "IPv4"):
        way = ways["direct", family]
        assert way["withBigTcp"]["largestBytes"] > 100_000
        assert way["withBigTcp"]["packetsOver64KB"] > 0
        assert way["with64KB"]["largestBytes"] <= 65536
        assert way["with64KB"]["packetsOver64KB"] == 0
    known = StateDir(tmp_path / "state").tested()
    assert known.forwards_ipv6 == ways["forwarded", "IPv6"]["works"]
    assert json.loads(netns.run("ip", "-j", "link"))[0]["ifname"] == "lo"
    assert len(json.loads(netns.run("ip", "-j", "link"))) == 1, "the test left devices here"


def test_an_example_from_file_to_devices_and_back(netns: Namespace, bpffs: Path, tmp_path: Path) -> None:
    netns.veth("e0", "e1", "192.0.2.1/24")
    manifests, state = tmp_path / "manifests", tmp_path / "state"
    manifests.mkdir()
    (manifests / "storage.yaml").write_text(yaml.safe_dump(POLICY))
    where = ["--state-dir", str(state), "--bpffs", str(bpffs / "sixgate")]
    objects = ["--objects", str(OBJECTS)]
    label = ["--label", "node-role.kubernetes.io/storage=yes"]
    build_all(ROOT / "bpf_src", OBJECTS)
    done = sixgate("standalone", "--manifests", str(manifests), "--node", "n", *label, *where, *objects, "--once")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(sixgate("bigtcp", "status", *where, "-o", "json").stdout)
    assert (row["device"], row["ipv6Wanted"], row["ipv6Gso"], row["ipv4Gro"]) == ("e0", 196608, 196608, 131072)
    shown = sixgate("bigtcp", "status", *where).stdout
    assert "e0" in shown
    assert "196608" in shown
    assert sixgate("down", *where, *objects).returncode == 0
    with Netlink() as netlink:
        assert netlink.devices()["e0"].sizes.gso6 == 65536
    assert "No BIGTCPPolicy has selected a device" in sixgate("bigtcp", "status", *where).stdout


def test_the_test_says_which_capability_it_lacks(netns: Namespace, tmp_path: Path) -> None:
    capabilities = "-all,+bpf,+net_admin,+perfmon"
    words = ["setpriv", f"--bounding-set={capabilities}", "--inh-caps=-all", sys.executable, "-m", "sixgate"]
    done = subprocess.run(
        [*words, "bigtcp", "test", "--state-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT / "operator",
    )
    assert done.returncode == 3
    assert "CAP_SYS_ADMIN" in done.stderr
