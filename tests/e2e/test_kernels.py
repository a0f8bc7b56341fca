"""Every shipped object loads on the oldest and on a newer kernel of Debian, and translates there as the RFC says.

Each kernel is booted once, in QEMU without KVM; `make kernels` shows the same as a table.
"""

from __future__ import annotations

from functools import cache
from shutil import which

import pytest

from e2e.kernels.images import SERIES
from e2e.kernels.run import QEMU, Report, try_kernel

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(which(QEMU) is None, reason=f"{QEMU} is not installed (apt-get install qemu-system-x86)."),
    pytest.mark.skipif(
        which("apt-get") is None, reason="Kernels come from Debian's packages, and there is no apt-get."
    ),
]
MOST_INSNS = 500_000  # the kernel gives up at a million
OBJECTS = {"sg_slow", "sg_tc", "sg_xdp"}


@cache
def report(series: str) -> Report:
    return try_kernel(series)


@pytest.fixture(params=SERIES)
def kernel(request: pytest.FixtureRequest) -> Report:
    return report(request.param)


def test_every_object_loads_under_every_combination_of_constants(kernel: Report) -> None:
    assert kernel.errors == {}
    assert {name.split()[0] for name in kernel.insns} >= OBJECTS
    assert {name: count for name, count in kernel.insns.items() if count > MOST_INSNS} == {}


@pytest.mark.parametrize("way", ["tc", "clsact", "xdp"])
def test_every_case_is_translated_as_the_rfc_says(kernel: Report, way: str) -> None:
    if way == "clsact" and not kernel.features["tcx"]:
        pytest.skip(f"Linux {kernel.release} has no tcx: clsact is its way `tc`.")
    assert kernel.ways[way].faults == ()
    assert kernel.ways[way].cases > 250
