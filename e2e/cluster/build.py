"""Builds the project's image with buildah, without a registry: the base is made of Debian packages under its real name.

python -m e2e.cluster.build [--tag NAME:TAG] [--out FILE]      prints size and digest of what was built
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.apiserver.binaries import CACHE, _locked
from e2e.cluster.node import ROOT

BASE = "docker.io/library/debian:bookworm-slim"
STORE = CACHE / "buildah"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
SLIM = (
    "path-exclude=/usr/share/man/*", "path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/locale/*", "path-exclude=/usr/share/info/*",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Image:
    """A built image; `archive` can be imported by `ctr images import`, `layers` are bytes of each layer, unpacked."""

    name: str
    archive: Path
    bytes: int
    layers: tuple[tuple[str, int], ...]


def buildah(*arguments: str, quiet: bool = True) -> str:
    """buildah with a store of its own, rootless of any daemon."""
    command = ["buildah", "--root", str(STORE / "root"), "--runroot", str(STORE / "run"), "--storage-driver", "overlay"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"buildah {arguments[0]} must succeed, and it said:\n{(done.stdout + done.stderr)[-4000:]}")
    if not quiet:
        sys.stderr.write(done.stderr)
    return done.stdout


def ensure_base() -> None:
    """Debian's packages under the name that the Dockerfile asks for, unless the store has it."""
    listed = json.loads(buildah("images", "--json") or "[]") or []
    if any(BASE in (item.get("names") or ()) for item in listed):
        return
    archive = STORE / "base.tar"
    options = [f"--dpkgopt={option}" for option in SLIM]
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    where = [str(sources)] if sources.exists() else []
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", *options, "bookworm", str(archive), *where], check=True
    )
    made = buildah("from", "scratch").strip()
    buildah("add", made, str(archive), "/")
    buildah(
        "config", "--cmd", "bash", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", made
    )
    buildah("commit", "--rm", made, BASE)
    archive.unlink()


def build(name: str, version: str = "0.0.0", *, label: str = "", out: Path | None = None) -> Image:
    """Builds the work tree's Dockerfile; unchanged layers come from the store. `label` makes a digest of its own."""
    STORE.mkdir(parents=True, exist_ok=True)
    with _locked(STORE / "lock"):
        ensure_base()
        revision = _git("rev-parse", "--short", "HEAD") + ("-dirty" if _git("status", "--porcelain") else "")
        extra = ["--label", f"io.sixgate.build={label}"] if label else []
        certificates = [f"--volume={CERTIFICATES}:/etc/pip-ca.crt:ro", "--build-arg", "PIP_CERT=/etc/pip-ca.crt"]
        buildah("bud", "--isolation", "chroot", "--pull-never", "--layers", "--format", "docker", "--tag", name,
                "--build-arg", f"VERSION={version}", "--build-arg", f"REVISION={revision}",
                *(certificates if CERTIFICATES.exists() else ()), *extra, str(ROOT))  # fmt: skip
        archive = out or STORE / (name.replace("/", "_").replace(":", "_") + ".tar")
        archive.unlink(missing_ok=True)
        buildah("push", "--quiet", name, f"docker-archive:{archive}:{name}")
        return Image(name, archive, archive.stat().st_size, _layers(name))


def _layers(name: str) -> tuple[tuple[str, int], ...]:
    """What made each layer of the last stage, and its size."""
    found: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", name))
    history = found["OCIv1"]["history"]
    sizes = found.get("Manifest") and json.loads(found["Manifest"])["layers"]
    rows: list[tuple[str, int]] = []
    for entry in history:
        if not entry.get("empty_layer"):
            size = sizes[len(rows)]["size"] if sizes else 0
            rows.append((entry.get("created_by", "")[:60], int(size)))
    return tuple(rows)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the image of sixgate without a registry.")
    parser.add_argument("--tag", default="sixgate.io/sixgate:dev")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    made = build(args.tag, out=args.out)
    for what, size in made.layers:
        print(f"{size / 1e6:8.1f} MB  {what}")
    print(f"{made.bytes / 1e6:8.1f} MB  {made.archive}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
