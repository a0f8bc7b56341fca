"""What the kernel and this process can do, told truly: with all capabilities, with the agent's three, with fewer."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sixgate.errors import BpfError
from sixgate.node.bpf import BpfObject, is_bpffs, missing_permission, mount_id, probe
from sixgate.node.bpf.probe import too_old
from tests.bpf.harness import ROOT

AGENT = ("bpf", "net_admin", "perfmon")

READ_A_PIN = """
import sys
from sixgate.node.bpf import Map, Program, layouts, missing_permission, query_attached
from sixgate.node.bpf.ctype import MapSpec, U32, Record, Field, Int
print(missing_permission() or "may use BPF")
value = Record("value", 8, (Field("number", 0, U32), Field("pad", 4, U32)))
layouts.MAPS["t_array"] = MapSpec("t_array", 2, U32, value, 8)
with Map.from_pin(sys.argv[1] + "/t_array") as table:
    table.set(1, {"number": 5})
    print(table.get(1))
with Map.from_pin(sys.argv[1] + "/t_lpm") as table:
    print(table.codec.key)
with Program.from_pin(sys.argv[1] + "/program") as program:
    print(program.info.name, program.test_run(bytes(64)).retval)
print(query_attached(1, "tc-ingress"))
"""


def as_agent(capabilities: tuple[str, ...], script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with these capabilities only. A root without CAP_DAC_OVERRIDE reads its own files."""
    setpriv = shutil.which("setpriv")
    assert setpriv, "setpriv of util-linux is needed"
    bounds = "-all" + "".join(f",+{name}" for name in capabilities)
    return subprocess.run(
        [setpriv, "--bounding-set", bounds, "--inh-caps", bounds, sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT / "operator"), "PATH": os.environ["PATH"]},
    )


def test_this_kernel_is_probed() -> None:
    features = probe()

    assert features.permission == ""
    assert features.xdp
    assert features.release == os.uname().release
    assert features.libbpf.startswith("v")
    release = tuple(int(part) for part in features.release.split("-")[0].split(".")[:2])
    assert features.tcx == (release >= (6, 6))


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (0, "it lacks the capabilities CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON."),
        (1 << 12 | 1 << 39, "it lacks the capability CAP_PERFMON."),
        (1 << 12, "it lacks the capabilities CAP_BPF, CAP_PERFMON."),
        (1 << 21, "it lacks the capability CAP_NET_ADMIN."),
    ],
    ids=["none", "no perfmon", "net_admin alone", "sys_admin alone"],
)
def test_missing_capabilities_are_named(held: int, told: str) -> None:
    assert missing_permission(f"Name:\tx\nCapEff:\t{held:016x}\n") == f"This process may not use BPF: {told}"


def test_the_agents_three_capabilities_are_enough(opened: Callable[[str], BpfObject], bpffs: Path) -> None:
    shapes = opened("shapes")
    shapes.reuse_pinned(bpffs, ["t_array", "t_lpm"])
    shapes.load()
    with shapes.program("shape_xdp") as program:
        program.pin(bpffs / "program")

    done = as_agent(AGENT, READ_A_PIN, str(bpffs))

    assert done.returncode == 0, done.stderr
    # The kernel's BTF cannot be read by id without SYS_ADMIN: layouts know t_array, nobody knows t_lpm.
    assert done.stdout.splitlines() == ["may use BPF", "{'number': 5}", "Raw(size=24)", "shape_xdp 2", "[]"]


def test_an_agent_with_three_capabilities_loads_objects(compiled: Callable[[str], Path], bpffs: Path) -> None:
    script = """
import sys
from sixgate.node.bpf import BpfObject
with BpfObject.open(sys.argv[1]) as shapes:
    shapes.set_constants({"verdict": 1})
    shapes.reuse_pinned(sys.argv[2])
    shapes.load()
    print(shapes.program("shape_xdp").test_run(bytes(64)).retval)
"""
    done = as_agent(AGENT, script, str(compiled("shapes")), str(bpffs))
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert "t_tables" in {path.name for path in bpffs.iterdir()}


@pytest.mark.parametrize(
    ("held", "missing"),
    [
        (("net_admin", "perfmon"), "it lacks the capability CAP_BPF."),
        (("bpf", "net_admin"), "it lacks the capability CAP_PERFMON."),
        (("bpf", "perfmon"), "it lacks the capability CAP_NET_ADMIN."),
    ],
    ids=str,
)
def test_a_process_with_fewer_says_which(held: tuple[str, ...], missing: str) -> None:
    done = as_agent(held, "from sixgate.node.bpf import probe; found = probe(); print(found.permission, found.tcx)")
    assert done.stdout == f"This process may not use BPF: {missing} False\n", done.stderr


def test_bpffs_is_told_from_other_file_systems(bpffs: Path, tmp_path: Path) -> None:
    assert is_bpffs(bpffs)
    assert not is_bpffs(tmp_path)
    with pytest.raises(BpfError, match=r"asking for the file system of .*absent failed: No such file") as caught:
        is_bpffs(bpffs / "absent")
    assert caught.value.errno == errno.ENOENT


def test_a_file_system_mounted_over_has_another_mount_id(tmp_path: Path) -> None:
    assert mount_id(tmp_path) == mount_id(tmp_path.parent)
    with pytest.raises(BpfError, match=r"asking for the mount of .*absent failed: No such file"):
        mount_id(tmp_path / "absent")
    # In a mount namespace of its own, which goes with the process.
    script = f"""
import subprocess, sys
from sixgate.node.bpf import is_bpffs, mount_id
before = mount_id({str(tmp_path)!r}), is_bpffs({str(tmp_path)!r})
subprocess.run(["mount", "-t", "bpf", "sgtest-{secrets.token_hex(4)}", {str(tmp_path)!r}], check=True)
after = mount_id({str(tmp_path)!r}), is_bpffs({str(tmp_path)!r})
print(before[0] != after[0], before[1], after[1])
"""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT / "operator"), "PATH": os.environ["PATH"]},
    )
    assert done.stdout == "True False True\n", done.stderr
    assert not is_bpffs(tmp_path)


@pytest.mark.parametrize("release", ["6.1.0", "6.1.0-18-amd64", "6.18.4", "7.0", "10.2-rc1", "strange"])
def test_a_kernel_that_is_new_enough(release: str) -> None:
    assert not too_old(release)


@pytest.mark.parametrize("release", ["6.0.19", "5.15.0-91-generic", "4.18.0-513.el8.x86_64", "2.6.78"])
def test_a_kernel_that_is_too_old_is_named(release: str) -> None:
    assert too_old(release).startswith(f"The kernel of this node is Linux {release}, and sixgate needs 6.1 or newer")
