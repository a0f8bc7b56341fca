"""Fixtures of tests that compare the real gateway with the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sixgate.errors import BpfError
from sixgate.node.bpf import is_bpffs, missing_permission
from tests.rfc.live import BPFFS, LiveGateway

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def gateway() -> Iterator[LiveGateway]:
    """A live gateway in namespaces of its own; skips with the reason where this machine cannot run one."""
    if reason := missing_permission():
        pytest.skip(reason)
    if not BPFFS.is_dir() or not is_bpffs(BPFFS):
        pytest.skip(f"No BPF file system is mounted at {BPFFS}.")
    try:
        live = LiveGateway()
    except BpfError as error:
        if "tcx" not in str(error):
            raise
        pytest.skip(f"This kernel has no tcx: {error}")
    with live:
        yield live
