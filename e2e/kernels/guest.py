"""Runs inside the booted kernel as its first process: loads, attaches, translates, tells, and powers off.

What it finds goes to the console, one line `RESULT {json}`; a Python error goes there as it is.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOUNTS = (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("bpf", "/sys/fs/bpf"), ("tmpfs", "/tmp"))
SYS_INIT_MODULE = 175  # x86_64
RB_AUTOBOOT = 0x01234567
CONSTANT = "sg_cfg"
LOG_CHARACTERS = 12000
REPEATS = 3  # of a case that went wrong: emulation is slow, and a late packet is no fault


def prepare() -> None:
    """What an ordinary system has done before it starts a service."""
    libc = ctypes.CDLL(None, use_errno=True)
    for kind, path in MOUNTS:
        Path(path).mkdir(exist_ok=True)
        if libc.mount(kind.encode(), path.encode(), kind.encode(), 0, None):
            raise OSError(ctypes.get_errno(), f"mounting {path}")
    os.environ |= {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C"}
    for name in Path("/modules/order").read_text().split():
        data = Path("/modules", f"{name}.ko").read_bytes()
        if libc.syscall(SYS_INIT_MODULE, data, ctypes.c_ulong(len(data)), b"") and ctypes.get_errno() != 17:
            raise OSError(ctypes.get_errno(), f"loading module {name}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def load_all(constants: list[dict[str, int]]) -> dict[str, int]:
    """Most verified instructions of each program over all combinations of constants. RuntimeError with the verifier's
    words about the first failure of every object that does not load."""
    from sixgate.node.bpf import load_manifest  # noqa: PLC0415

    manifest = load_manifest(Path("/sixgate/build/bpf"))
    most: dict[str, int] = {}
    failures = []
    for name in sorted(manifest.digests):
        try:
            for key, count in _load(name, manifest.read(name), constants):
                most[key] = max(most.get(key, 0), count)
        except Exception as error:
            failures.append(f"{error}\n{getattr(error, 'log', '')[-LOG_CHARACTERS // 4 :]}")
    if failures:
        raise RuntimeError("\n".join(failures))
    return most


def _load(name: str, data: bytes, constants: list[dict[str, int]]) -> Iterator[tuple[str, int]]:
    from sixgate.node.bpf import BpfObject  # noqa: PLC0415

    for values in constants:
        with BpfObject.open(name, data=data) as opened:
            if CONSTANT in {field.name for field in opened.constants.fields}:
                opened.set_constants({CONSTANT: values})
            opened.load()
            for program in opened.programs:
                with opened.program(program) as loaded:
                    yield f"{name} {program}", loaded.info.verified_insns


class ClsactLink:
    """The older way to attach a tc program, as far as LiveGateway uses sixgate.node.bpf.Link."""

    count = 0

    def __init__(self, program: Any, ifindex: int) -> None:
        type(self).count += 1
        pin = f"/sys/fs/bpf/guest-{self.count}"
        program.pin(pin)
        self._device = ["dev", _device(ifindex)]
        subprocess.run(["tc", "qdisc", "replace", *self._device, "clsact"], check=True)
        words = ["ingress", "pref", "1", "handle", "1", "bpf", "da", "object-pinned", pin]
        subprocess.run(["tc", "filter", "replace", *self._device, *words], check=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """It goes with its namespace."""


def _device(ifindex: int) -> str:
    import socket  # noqa: PLC0415

    return socket.if_indextoname(ifindex)


def translate_all(cases: list[tuple[str, Any, bytes, Any]], *, xdp: bool, tcx: bool) -> dict[str, object]:
    """Every case of tests/rfc on live devices of this kernel."""
    from sixgate.node.bpf import Link  # noqa: PLC0415
    from tests.rfc import live  # noqa: PLC0415
    from tests.rfc.verdict import Observed, compare  # noqa: PLC0415

    live.Link = SimpleNamespace(xdp=Link.xdp, tcx=Link.tcx if tcx else ClsactLink)  # type: ignore[attr-defined, assignment]
    faults = []
    with live.LiveGateway(xdp=xdp) as gateway:
        for name, node, packet, expect in cases:
            found = [""]
            for _ in range(REPEATS):
                gateway.ensure(node)
                seen = gateway.translate(packet)
                if not (found := compare(expect, seen)):
                    break
                found = compare(expect, Observed((*seen.packets, *gateway.late()), seen.reason, seen.passed))
                if not found:
                    break
            if found:
                faults.append(f"{name}: {'; '.join(found)}"[:400])
    return {"cases": len(cases), "faults": faults}


def stage(name: str, report: dict[str, object], work: Callable[[], object]) -> None:
    """One part of the run; what goes wrong in it does not keep the others from being run."""
    started = time.monotonic()
    try:
        report[name] = work()
    except Exception as error:
        whole = traceback.format_exc() + getattr(error, "log", "")
        report.setdefault("errors", {})[name] = whole[-LOG_CHARACTERS:]  # type: ignore[index]
    print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)


def main() -> None:
    prepare()
    sys.path[:0] = ["/sixgate", "/sixgate/operator"]
    payload = pickle.loads(Path("/payload").read_bytes())  # made by e2e.kernels.run
    report: dict[str, object] = {"release": os.uname().release}
    from sixgate.node.bpf import probe  # noqa: PLC0415

    features = probe()
    report["features"] = {name: getattr(features, name) for name in features.__dataclass_fields__}
    stage("insns", report, lambda: load_all(payload["constants"]))
    tcx = bool(features.tcx)
    stage("tc", report, lambda: translate_all(payload["cases"], xdp=False, tcx=tcx))
    if tcx:  # the older mechanism works on newer kernels, too
        stage("clsact", report, lambda: translate_all(payload["cases"], xdp=False, tcx=False))
    stage("xdp", report, lambda: translate_all(payload["cases"], xdp=True, tcx=tcx))
    print("RESULT " + json.dumps(report, default=str), flush=True)


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os.sync()
        time.sleep(0.2)
        ctypes.CDLL(None).reboot(RB_AUTOBOOT)
