"""Sessions of a stateful gateway while its process is killed, and while its objects are replaced by ones whose tables
have another layout.

The new layout is real: the sources are copied, `struct sg_st_sess` gets a member more, and the objects are
compiled from that.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bench.nat64_labs import prepare_packets
from bench.nat_labs import POOL, gateway, start
from e2e.lab import natlab
from e2e.lab.flows import FlowReceiver, Seen, send_command
from e2e.lab.natlab import CLIENT6, SERVER4
from e2e.lab.run import LabError, LabRun
from e2e.lab.sixgate import ROOT

FLOWS = 500_000
RATE = 80_000
ROUNDS = 2  # what the machine itself drops in one round comes in the other
LIVE_RATE = 20_000
KILLS = 10
KILL_FLOWS = 20_000
SEED = 5
FIRST_SOURCE = "2001:db8:6:1::1000"
GROW = {
    "sg_st_sess": ("	struct sg_count in;\n};", "	struct sg_count in;\n	__u64 grown;\n};"),
}


@dataclass(frozen=True, slots=True)
class Killed:
    kills: int
    flows: int
    lost: int  # flows whose mapping is another one afterwards
    packets: int  # that came through meanwhile
    moved: int  # times that a flow had another source than before


@dataclass(frozen=True, slots=True)
class Upgraded:
    flows: int
    lost: int
    moved_meanwhile: int
    carrying_s: float  # from the first entry that was carried over to the last
    log: str


def grown_objects(directory: Path) -> Path:
    """Objects whose session and mapping have a member more, and their manifest. Compiled once per directory."""
    source, out = directory / "bpf_src", directory / "objects"
    shutil.copytree(ROOT / "bpf_src", source)
    types = source / "include" / "sg" / "types_nat.h"
    text = types.read_text()
    for name, (old, new) in GROW.items():
        start_at = text.index(f"struct {name} {{")
        at = text.index(old, start_at)
        if at > text.index("\n};", start_at):
            raise LabError(f"struct {name} does not end as this measurement expects; it cannot make it grow.")
        text = text[:at] + new + text[at + len(old) :]
    types.write_text(text)
    command = [sys.executable, str(ROOT / "tools" / "build_bpf.py"), "--source", str(source), "--out", str(out)]
    done = subprocess.run([*command, "sg_tc", "sg_slow"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"Objects with a larger layout could not be compiled: {done.stderr[-800:]}")
    return out


def kill_under_flows(kills: int = KILLS, flows: int = KILL_FLOWS, rate: int = LIVE_RATE) -> Killed:
    """kill -9 and restart, again and again, while every flow sends."""
    with LabRun() as lab:
        natlab.build(lab, (CLIENT6, SERVER4))
        sixgate = start(lab, _gateway(flows))
        prepare_packets(lab, (SERVER4.role,))
        target = natlab.embed(SERVER4.ip)
        before = _one_round(lab, target, flows)
        moments = random.Random(SEED)
        with FlowReceiver(lab, SERVER4.role, flows) as receiver:
            words = send_command(lab, CLIENT6.role, FIRST_SOURCE, target, flows, rate, 0)
            sender = lab.spawn(CLIENT6.role, words, stdout=subprocess.PIPE)
            for _ in range(kills):
                time.sleep(moments.uniform(0.1, 1.2))
                sixgate.kill()
                sixgate.start()
            sixgate.wait_ready()
            sender.terminate()
            sender.wait()
            during = receiver.result()
        after = _one_round(lab, target, flows)
        return Killed(kills, flows, before.differ(after), during.packets, during.moved)


def upgrade_under_flows(flows: int = FLOWS) -> Upgraded:
    """Another object with another layout, while all flows are in the tables and send."""
    with LabRun() as lab:
        objects = grown_objects(lab.workdir)
        natlab.build(lab, (CLIENT6, SERVER4))
        sixgate = start(lab, _gateway(flows))
        prepare_packets(lab, (SERVER4.role,))
        target = natlab.embed(SERVER4.ip)
        before = _one_round(lab, target, flows)
        if before.flows != flows:
            raise LabError(f"Only {before.flows} of {flows} flows came through before the upgrade.")
        with FlowReceiver(lab, SERVER4.role, flows) as receiver:
            words = send_command(lab, CLIENT6.role, FIRST_SOURCE, target, flows, LIVE_RATE, 0)
            sender = lab.spawn(CLIENT6.role, words)
            sixgate.stop()
            mark = len(sixgate.log.read_text())
            sixgate.objects = objects
            sixgate.start()
            sixgate.wait_ready()
            sender.terminate()
            sender.wait()
            meanwhile = receiver.result()
        log = sixgate.log.read_text()[mark:]
        after = _one_round(lab, target, flows)
        return Upgraded(flows, before.differ(after), meanwhile.moved, _carrying(log), log)


def _gateway(flows: int) -> dict[str, object]:
    sessions = 1 << (flows * 2 - 1).bit_length()
    stateful = {"pools": [{"cidr": POOL}], "maxSessions": min(sessions, 1 << 20)}
    return gateway({"prefix": str(natlab.PREFIX), "stateful": stateful})


def _one_round(lab: LabRun, target: str, flows: int) -> Seen:
    with FlowReceiver(lab, SERVER4.role, flows) as receiver:
        lab.run(CLIENT6.role, send_command(lab, CLIENT6.role, FIRST_SOURCE, target, flows, RATE, ROUNDS), timeout=120)
        return receiver.result()


def _carrying(log: str) -> float:
    """Seconds from the program that is ready to be switched to the last entry that was carried over."""
    loaded = [_time(line) for line in log.splitlines() if ": Load sg_" in line]
    carried = [_time(line) for line in log.splitlines() if "over once more" in line]
    if not loaded or not carried:
        raise LabError(f"Nothing was carried over; the log says:\n{log[-2000:]}")
    return (carried[-1] - loaded[-1]).total_seconds()


def _time(line: str) -> datetime:
    found = re.match(r"\S+", line)
    assert found is not None
    return datetime.fromisoformat(found[0].replace("Z", "+00:00"))
