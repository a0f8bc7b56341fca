"""Runs inside the image's build: makes the virtual environment at /opt/sixgate small and quick to start.

Removes what no command of sixgate imports (pip, setuptools, tests, the synchronous Kubernetes client), compiles the
rest for a file system that will be read-only, and writes the `sixgate` command.
"""

from __future__ import annotations

import compileall
import shutil
import subprocess
import sys
from pathlib import Path
from py_compile import PycInvalidationMode

ROOT = Path("/opt/sixgate")
PACKAGES = ROOT / "lib" / "python3.11" / "site-packages"
# The official client ships itself twice, 57 MB each; sixgate uses `kubernetes.aio`, which would import the other.
SYNCHRONOUS = ("client", "config", "dynamic", "watch", "stream", "utils", "leaderelection", "informer", "e2e_test")
UNUSED = ("pip", "pip-*.dist-info", "setuptools", "setuptools-*.dist-info", "_distutils_hack", "pkg_resources",
          *(f"kubernetes/{name}" for name in SYNCHRONOUS), "**/tests", "**/test")  # fmt: skip
COMMAND = """\
#!/opt/sixgate/bin/python
import sys

from sixgate.cli import main

sys.exit(main())
"""


def main() -> int:
    for pattern in UNUSED:
        for path in list(PACKAGES.glob(pattern)):
            shutil.rmtree(path, ignore_errors=True)
    for path in (*PACKAGES.glob("**/*.pyi"), *PACKAGES.glob("*.pth")):
        path.unlink()
    init = PACKAGES / "kubernetes" / "__init__.py"
    kept = [line for line in init.read_text().splitlines() if not line.startswith("from . import")]
    init.write_text("\n".join(kept) + "\n")
    command = ROOT / "bin" / "sixgate"
    command.write_text(COMMAND)
    command.chmod(0o755)
    for path in (ROOT / "bin").glob("pip*"):
        path.unlink()
    compiled = compileall.compile_dir(
        PACKAGES, quiet=1, workers=0, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH
    )
    subprocess.run([str(command), "version"], check=True)
    subprocess.run(
        [str(ROOT / "bin" / "python"), "-c", "import sixgate.kube, kopf, sixgate.controller.operator"], check=True
    )
    return 0 if compiled else 1


if __name__ == "__main__":
    sys.exit(main())
