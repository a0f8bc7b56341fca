"""Which object files there are and what their digests are: objects are checked before libbpf parses a byte of them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from sixgate.errors import BpfError

NAME = re.compile(r"sg_[a-z0-9_]+")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """`digests` by object name (`sg_tc`), each `sha256:` and 64 hex digits; `directory` holds the files."""

    directory: Path
    digests: dict[str, str]

    def read(self, name: str, digest: str | None = None) -> bytes:
        """The bytes of an object that have the digest of the manifest, and the one that the caller wants.

        BpfError names both digests where they differ. Hand these very bytes to `BpfObject.open(path, data=...)`:
        the file may change after it was read.
        """
        listed = self.digests.get(name)
        if listed is None:
            raise BpfError(f"{self.directory} has no BPF object {name!r}; it has {', '.join(self.digests) or 'none'}.")
        if digest is not None and digest != listed:
            raise BpfError(f"BPF object {name} is wanted as {digest}, but {self.directory} has it as {listed}.")
        path = self.path(name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BpfError(f"BPF object {path} cannot be read: {error.strerror}.", error.errno or 0) from error
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if found != listed:
            raise BpfError(f"BPF object {path} has digest {found}, where the manifest says {listed}.")
        return data

    def path(self, name: str) -> Path:
        return self.directory / f"{name}.bpf.o"


def load_manifest(objects_dir: str | os.PathLike[str]) -> Manifest:
    """Reads `manifest.json` of a directory; BpfError where it is missing or is not what tools/build_bpf.py writes."""
    path = Path(objects_dir, "manifest.json")
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise BpfError(f"{path} cannot be read: {error.strerror}; run `make bpf`.", error.errno or 0) from error
    except ValueError as error:
        raise BpfError(f"{path} is not JSON: {error}.") from error
    digests = content.get("objects") if isinstance(content, dict) else None
    if not isinstance(digests, dict):
        raise BpfError(f'{path} has no "objects", where names and digests are expected.')
    for name, digest in digests.items():
        if not NAME.fullmatch(name) or not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            raise BpfError(f"{path} has {name!r}: {digest!r}, where a name sg_... and sha256:... are expected.")
    return Manifest(Path(objects_dir), digests)
