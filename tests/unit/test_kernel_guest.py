"""What the guests of e2e.kernels have of this tree."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from e2e.kernels.initramfs import project_files

if TYPE_CHECKING:
    from pathlib import Path

IMPORTS = """
import sys
sys.path[:0] = [f"{sys.argv[1]}/operator", sys.argv[1]]
from sixgate.node.bpf import BpfObject, Link, load_manifest, probe
from tests.rfc import live
from tests.rfc.verdict import Observed, compare
"""


def test_what_a_guest_imports_is_there(tmp_path: Path) -> None:
    """As in a guest: by an isolated interpreter that knows no site-packages."""
    for name, data in project_files().items():
        if name.endswith(".py"):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-IS", "-c", IMPORTS, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
