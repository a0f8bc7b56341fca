"""LoadBalancers in standalone mode with real servers behind them."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from e2e.lab.balance import BALANCER, CLIENT, VIP4, VIP6, BalancerLab, address
from e2e.lab.run import LabRun
from e2e.lab.sixgate import NODE, ROOT, SIXGATE, Sixgate
from sixgate.cli import build
from tests.netns.streams import counters, moved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

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

    def put(self, family: int = 4, name: str = "web", *, wait: bool = True, **spec: Any) -> None:
        """Writes a LoadBalancer, and waits until the node has it."""
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
        written = self.manifests / f".{name}.json"  # a look in between must not find half of it
        written.write_text(json.dumps(document))
        written.rename(self.manifests / f"{name}.json")
        if not self.sixgate.running():
            self.sixgate.start()
        if not wait:
            return
        self.revision = self.sixgate.wait_ready(revision_not=self.revision)
        assert not self.sixgate.status()["problems"]

    def report(self) -> dict[str, Any]:
        (row,) = json.loads((self.sixgate.state_dir / "status.json").read_text())["status"]["balancers"]
        return dict(row)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 120  # beside any load
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
    assert site.net.everyone(vip(family)) == set(BACKENDS)
    assert site.net.lab.run(CLIENT, ["ping", "-c1", "-W20", vip(family)]).returncode == 0


@VIPS
@pytest.mark.parametrize("polls", [True, False], ids=["peer-polls", "peer-does-not"])
def test_one_arm_of_veth_is_accelerated_as_far_as_its_other_end_takes_frames(
    site: Site, family: int, polls: bool
) -> None:
    """XDP_TX would leave frames in the ring of the other end, where no other packet fetches them in time."""
    lab = site.net.lab
    lab.run("br", ["ethtool", "-K", lab.device(BALANCER), "gro", "on" if polls else "off"])
    site.put(family, acceleration="BestEffort")
    assert site.net.answers(3, vip(family)) != [""] * 3  # the neighbours are known now
    before = counters(site.sixgate)
    told = Counter(site.net.answers(40, vip(family)))
    assert set(told) == set(BACKENDS)
    ping = ["ping", "-c3", "-i0.2", "-W20", vip(family)]
    assert " 3 received" in lab.run(CLIENT, ping).stdout
    grown = moved(before, counters(site.sixgate))
    done, slow = grown["OK_LB"], grown.get("SLOW_XDP", 0) + grown.get("SLOW_NEIGH", 0)
    assert (2 * slow < done) if polls else (slow >= done)


def test_a_device_without_native_xdp_is_told(site: Site) -> None:
    """The loopback device has none: XDP is generic there, and the object says so."""
    site.put(acceleration="Native", devices=["lo", site.net.lab.device("up")])
    (item,) = json.loads((site.sixgate.state_dir / "status.json").read_text())["status"]["objects"]
    assert item["state"] == "Programmed"
    assert item["message"].startswith("lo should run XDP natively, but its driver has no XDP: ")
    assert item["message"].count("natively") == 1
    assert site.net.everyone() == set(BACKENDS)


def open_line(site: Site, family: int = 4) -> subprocess.Popen[str]:
    """A connection that stays: bash's own, which says each line of its input and what came back."""
    each = 'echo "$line" >&3; read -r -t 3 said <&3; echo "$said"'
    script = f"exec 3<>/dev/tcp/{vip(family)}/80; while read -r line; do {each}; done"
    words = site.net.lab.command(CLIENT, ["bash", "-c", script])
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def say(line: subprocess.Popen[str]) -> str:
    assert line.stdin is not None
    assert line.stdout is not None
    line.stdin.write("x\n")
    line.stdin.flush()
    return line.stdout.readline().strip()


def open_lines(site: Site, family: int = 4) -> tuple[list[subprocess.Popen[str]], list[str]]:
    """Connections that stay, two or more to each backend, and which backend each of them has."""
    lines, names = [], list[str]()
    while len(lines) < 100 and (len(lines) < 12 or min(Counter(names)[role] for role in BACKENDS) < 2):
        lines.append(open_line(site, family))
        names.append(say(lines[-1]).split()[0])
    assert set(names) == set(BACKENDS)
    return lines, names


def test_established_connections_survive_drain_removal_and_restart(site: Site) -> None:
    site.put()
    lines, before = open_lines(site)
    try:
        site.put(backends=[{"address": address(role, 4), "maintenance": role == "b1"} for role in BACKENDS])
        assert "b1" not in site.net.answers(20)
        assert [say(line) for line in lines] == [f"{name} 2" for name in before]
        site.sixgate.kill()
        site.sixgate.start()
        site.sixgate.wait_ready()
        site.put(backends=[{"address": address("b3", 4)}])
        assert set(site.net.answers(10)) == {"b3"}
        assert [say(line) for line in lines] == [f"{name} 3" for name in before]
        states = {row["address"]: row["state"] for row in site.report()["notActive"]}
        assert states == {address("b1", 4): "Draining", address("b2", 4): "Draining"}
    finally:
        for line in lines:
            line.kill()
            line.wait()


# Twice half a second: a backend that answers beside any load is not taken for one that does not.
CHECK = {"type": "HTTP", "intervalMilliseconds": 500, "timeoutMilliseconds": 500, "rise": 2, "fall": 2}


def test_a_backend_that_does_not_answer_is_quarantined_and_comes_back(site: Site) -> None:
    site.put(healthCheck=CHECK)
    assert site.net.everyone() == set(BACKENDS)
    site.net.stop("b2")
    site.wait(lambda: site.report()["quarantined"] == 1, "b2 is not quarantined")
    (row,) = site.report()["notActive"]
    assert row == {"address": address("b2", 4), "state": "Quarantined", "message": "port 80: connection refused"}
    assert site.net.everyone(but=["b2"]) == {"b1", "b3"}
    site.net.serve("b2")
    site.wait(lambda: site.report()["active"] == 3, "b2 does not come back")
    assert site.net.everyone() == set(BACKENDS)


@pytest.mark.parametrize("policy", ["Open", "Closed"])
def test_what_happens_when_no_backend_answers(site: Site, policy: str) -> None:
    site.put(healthCheck={**CHECK, "path": "/nothing", "statusCodes": [404], "whenAllFail": policy})
    site.wait(lambda: site.report()["quarantined"] == 3, "not all are quarantined")
    assert not site.sixgate.status()["ready"]
    assert site.report()["message"].startswith("No backend answers its health checks; ")
    assert site.report()["message"].endswith("found: /nothing gave status 200, expected 404.")
    told = site.net.everyone() if policy == "Open" else set(site.net.answers(6, timeout_s=1))
    assert told == (set(BACKENDS) if policy == "Open" else {""})


def test_lb_commands_say_what_is_counted(site: Site) -> None:
    site.put(ports=[{"port": 80}, {"port": 8000, "endPort": 8099}])
    assert "" not in site.net.answers(30)
    site.net.ask(port=81, timeout_s=1)

    def told(*words: str) -> Any:
        return json.loads(site.sixgate.command(["lb", *words, "-o", "json"]).stdout)

    (row,) = told("list")
    assert (row["name"], row["vips"], row["ports"]) == ("LoadBalancer/web", [VIP4], ["80/TCP", "8000-8099/TCP"])
    shown = told("show", "web")
    assert shown["total"]["flows"] == sum(backend["counted"]["flows"] for backend in shown["backends"]) == 30
    assert shown["total"]["packets"] == sum(backend["counted"]["packets"] for backend in shown["backends"]) >= 30 * 5
    assert shown["vips"][0]["drops"]["LB_PORT"] >= 1
    assert sum(backend["slots"] for backend in told("maglev", "web")["backends"]) == 2039
    assert len(told("maglev", "web", "--slots")) == 2039
    assert told("flows") == []
    texts = {("list",): "web", ("show", "web"): "LB_PORT", ("flows",): "client", ("maglev", "web"): "33"}
    for words, text in texts.items():
        assert text in site.sixgate.command(["lb", *words]).stdout
    missing = site.sixgate.command(["lb", "flows", "other"], check=False)
    assert (missing.returncode, "called other; there is LoadBalancer/web." in missing.stderr) == (1, True)


@pytest.mark.parametrize("acceleration", ["BestEffort", "Native"])
def test_a_device_without_native_xdp_is_named(site: Site, acceleration: str) -> None:
    """A bridge has none: tc does it, or XDP in generic mode where XDP is asked for."""
    device = site.net.lab.device("slow")
    site.net.lab.ip(BALANCER, f"link add {device} type bridge", f"link set {device} up")
    site.put(acceleration=acceleration, devices=[site.net.lab.device("up"), device])
    assert site.net.everyone() == set(BACKENDS)
    status = json.loads((site.sixgate.state_dir / "status.json").read_text())["status"]
    hooks = {row["name"]: row["hooks"].get("xdp") for row in status["devices"] if "xdp" in row["hooks"]}
    (row,) = status["objects"]
    assert hooks[site.net.lab.device("up")] == "xdp-native"
    if acceleration == "Native":
        assert hooks[device] == "xdp-generic"
    else:
        assert device not in hooks
        assert f"Could not attach sg_uplink_xdp to xdp on {device}" in row["message"]
        assert "not supported" in row["message"]


def test_lb_commands_on_a_node_that_balances_nothing(tmp_path: Path) -> None:
    def told(*words: str) -> tuple[int, str]:
        places = ["--bpffs", str(tmp_path / "bpf"), "--state-dir", str(tmp_path / "state")]
        done = CliRunner().invoke(build(), ["lb", *words, *places])
        return done.exit_code, done.output

    assert told("list") == (0, "This node balances nothing.\n")
    assert [json.loads(told(word, "-o", "json")[1]) for word in ("list", "flows")] == [[], []]
    for words in (("show", "web"), ("maglev", "web"), ("maglev", "web", "--slots"), ("flows", "web"), ("show", "")):
        code, text = told(*words)
        assert code == 1
        assert f"No balancer on this node is called {words[1]}; there is none." in text


@VIPS
@pytest.mark.parametrize("outer", [4, 6])
def test_dsr_works_with_nothing_but_decap_on_the_backends(family: int, outer: int) -> None:
    """Backends get the virtual address and the program from `sixgate decap`, and lose both again."""
    with LabRun() as lab:
        site = Site(lab)
        lab.workdir.chmod(0o711)
        for role in BACKENDS:
            lab.ip(role, f"addr del {VIP4}/32 dev lo", f"addr del {VIP6}/128 dev lo")
            site.net.serve(role)
        words = [str(SIXGATE), "decap", "--objects", str(ROOT / "build" / "bpf")]
        places = {
            role: ["--bpffs", str(site.sixgate.bpffs.parent / f"decap-{role}"), "--state-dir", str(lab.workdir / role)]
            for role in BACKENDS
        }
        for role in BACKENDS:
            wanted = ["--vip", vip(family), "--from", address(BALANCER, outer), "--device", lab.device("up")]
            lab.run(role, [*words, *wanted, *places[role]])
        site.put(family, forwarding={"mode": "DSR"}, backends=[{"address": address(role, outer)} for role in BACKENDS])
        assert site.net.everyone(vip(family)) == set(BACKENDS)
        for role in BACKENDS:
            lab.run(role, [*words, "--down", *places[role]])
            assert vip(family) not in lab.run(role, ["ip", "addr", "show"]).stdout
        assert set(site.net.answers(3, vip(family), timeout_s=1)) == {""}
