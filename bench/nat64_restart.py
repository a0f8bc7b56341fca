"""kill -9 of the gateway process under numbered packets: what is lost, and what leaves untranslated."""

from __future__ import annotations

import json
import random
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from bench.nat64_labs import CLIENT, EXAMPLE, HOSTS, SERVER, negative_control, untranslated_escape
from e2e.lab import stamp, topology, traffic
from e2e.lab.run import LabError, LabRun
from e2e.lab.sixgate import Sixgate

KILLS = 20
RATE = 100_000
PACKETS = 2_000_000
SEED = 20
SHORTEST_S, LONGEST_S = 0.1, 1.5  # between a start and the next kill: before and after the process is ready


@dataclass(frozen=True, slots=True)
class Restart:
    kills: int
    sent: int
    rate: float  # packets per second, as sent
    tally: stamp.Tally
    machine_drops: int
    control_untranslated: int


def restart_under_traffic(*, kills: int = KILLS, packets: int = PACKETS, rate: int = RATE) -> Restart:
    """Kills and restarts the process `kills` times while `packets` numbered packets pass; LabError where it cannot."""
    with LabRun() as lab:
        topology.build(lab, HOSTS)
        untranslated_escape(lab)
        destination = SERVER.seen_from(6)

        def send(count: int) -> object:
            return stamp.send(lab, CLIENT.role, CLIENT.address, destination, count=count, rate=rate)

        send(1)  # the gateway learns its neighbour
        control = negative_control(lab, send)
        gateway = Sixgate(lab, EXAMPLE)
        gateway.start()
        gateway.wait_ready()
        if not traffic.ping(lab, CLIENT.role, destination).received:
            raise LabError("The gateway is ready and yet carries no ping; there is nothing to measure.")
        drops = softnet_drops()
        with stamp.Receiver(lab, SERVER.role, 4, packets, idle_ms=1000) as receiver:
            argv = stamp.send_command(lab, CLIENT.role, CLIENT.address, destination, count=packets, rate=rate)
            sender = lab.spawn(CLIENT.role, argv, stdout=subprocess.PIPE)
            done = kill_repeatedly(gateway, sender, kills)
            sent = stamp.Sent(**json.loads(sender.communicate(timeout=120)[0]))
            tally = receiver.result()
        gateway.wait_ready()
        if done < kills:
            raise LabError(f"Only {done} of {kills} kills happened while packets were under way; send more packets.")
        return Restart(done, sent.sent, sent.sent / sent.seconds, tally, softnet_drops() - drops, control)


def kill_repeatedly(gateway: Sixgate, sender: subprocess.Popen[str], kills: int) -> int:
    """Kills and starts the process while the sender runs, at random moments of its life; returns how many times."""
    moments = random.Random(SEED)
    for number in range(kills):
        time.sleep(moments.uniform(SHORTEST_S, LONGEST_S) if number else SHORTEST_S)
        if sender.poll() is not None:
            return number
        gateway.kill()
        gateway.start()
    return kills


def softnet_drops() -> int:
    """Packets that the kernel's per-core receive queues have refused so far, on the whole machine."""
    lines = Path("/proc/net/softnet_stat").read_text().splitlines()
    return sum(int(line.split()[1], 16) for line in lines)
