"""Images without a registry: archives that `ctr images import` takes."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.apiserver.binaries import CACHE, _made

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PAUSE_C = """
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void stop(int n) { (void)n; _exit(0); }
static void reap(int n) { (void)n; while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void)
{
	signal(SIGINT, stop); signal(SIGTERM, stop); signal(SIGCHLD, reap);
	for (;;) pause();
}
"""


@dataclass(frozen=True, slots=True)
class File:
    data: bytes
    mode: int = 0o644


def archive(name: str, files: Mapping[str, File], entrypoint: Sequence[str], out: Path) -> None:
    """A docker-archive with one layer; equal inputs give equal bytes."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for path, file in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(file.data), file.mode
            tar.addfile(entry, io.BytesIO(file.data))
    diff = hashlib.sha256(layer.getvalue()).hexdigest()
    config = json.dumps({
        "architecture": "amd64", "os": "linux", "config": {"Entrypoint": list(entrypoint)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff}"]},
    }).encode()  # fmt: skip
    digest = hashlib.sha256(config).hexdigest()
    manifest = json.dumps([{"Config": f"{digest}.json", "RepoTags": [name], "Layers": [f"{diff}/layer.tar"]}]).encode()
    with tarfile.open(out, "w") as tar:
        for path, data in (
            (f"{digest}.json", config),
            (f"{diff}/layer.tar", layer.getvalue()),
            ("manifest.json", manifest),
        ):
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def pause(name: str) -> Path:
    """The image whose process holds a pod's namespaces; kept."""

    def make(out: Path) -> None:
        program = out.with_suffix(".bin")
        command = ["cc", "-O2", "-static", "-s", "-x", "c", "-", "-o", str(program)]
        subprocess.run(command, input=PAUSE_C, text=True, check=True)
        archive(name, {"pause": File(program.read_bytes(), 0o755)}, ["/pause"], out)
        program.unlink()

    return _made(CACHE / "image" / "pause.tar", make)
