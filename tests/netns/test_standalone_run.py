"""`sixgate standalone` as a process: a directory of files, changes, mistakes, kill -9, down."""

from __future__ import annotations

import json
import signal
import time

from tests.netns.standalone import Gateway, ready


def test_a_day_of_a_gateway(gateway: Gateway) -> None:
    gateway.write()
    gateway.start()
    status = gateway.wait(ready)
    assert status["process"] == {"pid": gateway.process.pid if gateway.process else 0, "running": True}
    assert [(row["device"], row["hook"], row["mechanism"], row["program"]) for row in status["hooks"]] == [
        ("e0", "tc-ingress", "tcx", "sg_uplink_tc"),
        ("sg-slow1", "tc-ingress", "tcx", "sg_slow_tc"),
    ]
    assert status["objects"][0]["owner"] == "NAT46Gateway/lab"
    assert "SG_DROP_TTL" in status["counters"]
    assert set(status["traffic"]["NAT46Gateway/lab"]) == {"to4", "to6"}

    gateway.write(prefix="2001:db8:65::/96")
    changed = gateway.wait(lambda now: ready(now) and now["appliedRevision"] != status["appliedRevision"])

    gateway.text("kind: [\n")
    broken = gateway.wait(lambda now: bool(now["problems"]))
    assert broken["appliedRevision"] == changed["appliedRevision"]
    assert (broken["problems"][0]["file"], broken["problems"][0]["line"]) == ("lab.yaml", 2)
    assert len(gateway.attached()) == 1

    assert gateway.end(signal.SIGTERM) == 0
    assert len(gateway.attached()) == 1
    dead = gateway.status()
    assert dead["process"]["running"] is False
    assert dead["objects"][0]["state"] == "Programmed"

    gateway.start()  # the file is broken still: what ran before goes on
    again = gateway.wait(lambda now: bool(now["process"]["running"]) and bool(now["problems"]))
    assert again["appliedRevision"] == changed["appliedRevision"]
    assert len(gateway.attached()) == 1
    gateway.write()
    gateway.wait(lambda now: ready(now) and now["appliedRevision"] == status["appliedRevision"])

    refused = gateway.call(*gateway.words("down"))
    assert refused.returncode == 1
    assert "stop it first" in refused.stderr
    gateway.end(signal.SIGTERM)
    assert gateway.call(*gateway.words("down")).returncode == 0
    assert gateway.attached() == []
    assert not gateway.bpffs.exists()
    assert not gateway.state.exists()


def test_kill_9_at_any_time(gateway: Gateway) -> None:
    """Killed while it starts and while it changes; in the end all is as if nothing had happened."""
    gateway.write()
    gateway.start()
    gateway.wait(ready)
    (link,) = [seen.link_id for seen in gateway.attached()]
    gateway.end(signal.SIGKILL)
    for step in range(6):
        gateway.write(prefix=f"2001:db8:{step + 1:x}::/96")
        gateway.start()
        time.sleep(0.15 * step)  # spreads the moments; what is asserted holds at every one
        gateway.end(signal.SIGKILL)
        assert [seen.link_id for seen in gateway.attached()] == [link]
    gateway.write()
    gateway.start()
    gateway.wait(ready)
    assert [seen.link_id for seen in gateway.attached()] == [link]
    pins = sorted(path.name for path in (gateway.bpffs / "inner").iterdir())
    assert len(pins) == 1


def test_a_device_is_attached_as_soon_as_it_appears(gateway: Gateway) -> None:
    gateway.write()
    gateway.start()
    gateway.wait(ready)
    gateway.ns.veth("e2", "e3", "203.0.113.1/24")
    gateway.wait(lambda now: "e2" in [row["device"] for row in now["hooks"]])
    gateway.ns.ip("link del e2")
    gateway.wait(lambda now: "e2" not in [row["device"] for row in now["hooks"]])
    gateway.ns.veth("e2", "e3", "203.0.113.1/24")
    gateway.wait(lambda now: "e2" in [row["device"] for row in now["hooks"]])
    gateway.ns.ip("link del sg-slow0")
    gateway.wait(lambda now: ready(now) and "sg-slow1" in [row["device"] for row in now["hooks"]])


def test_once_and_down_on_exit(gateway: Gateway) -> None:
    gateway.write()
    done = gateway.call(*gateway.standalone("--once"))
    assert (done.returncode, done.stdout) == (0, "NAT46Gateway/lab: Programmed\n")
    gateway.write(prefix="2001:db8::/95")
    bad = gateway.call(*gateway.standalone("--once"))
    assert bad.returncode == 2
    assert "lab.yaml:" in bad.stderr
    assert "spec.prefix" in bad.stderr
    assert len(gateway.attached()) == 1
    gateway.write()
    gateway.start("--down-on-exit", "--log-format", "json")
    gateway.wait(ready)
    assert gateway.end(signal.SIGINT) == 0
    assert gateway.attached() == []
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
    assert {"message", "level", "logger", "timestamp"} <= set(lines[0])


def test_the_three_capabilities_are_enough(gateway: Gateway) -> None:
    """CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, as a container has them: no SYS_ADMIN, no ids."""
    gateway.write(acceleration="BestEffort")
    few = ["setpriv", "--bounding-set=-all,+bpf,+net_admin,+perfmon", "--inh-caps=-all"]
    for prefix in ("2001:db8:64::/96", "2001:db8:65::/96"):
        gateway.write(prefix=prefix, acceleration="BestEffort")
        done = gateway.call(*few, *gateway.standalone("--once"))
        assert (done.returncode, done.stdout) == (0, "NAT46Gateway/lab: Programmed\n"), done.stderr
    assert len(gateway.attached()) == 1
    assert gateway.call(*few, *gateway.words("status")).returncode == 0
    down = gateway.call(*few, *gateway.words("down"))
    assert down.returncode == 0, down.stderr
    assert gateway.attached() == []


def test_without_permission(gateway: Gateway) -> None:
    gateway.write()
    words = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *gateway.standalone("--once")]
    done = gateway.call(*words)
    assert done.returncode == 3
    assert "CAP_BPF" in done.stderr
    assert done.stderr.count("\n") == 1
