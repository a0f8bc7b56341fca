"""The object files of this machine, read once per digest and checked before anything parses them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.node.bpf.manifest import load_manifest
from sixgate.node.bpf.object import BpfObject
from sixgate.node.resolve import ObjectFile

if TYPE_CHECKING:
    from pathlib import Path

    from sixgate.api.nodeconfig import NodeConfigSpec


@dataclass(slots=True)
class Catalogue:
    """Objects under one directory. What was read stays in memory: replacing files does not disturb a running node."""

    directory: Path
    _files: dict[str, tuple[ObjectFile, bytes]] = field(default_factory=dict)

    def files(self, spec: NodeConfigSpec) -> dict[str, ObjectFile]:
        """What is known of every object that `spec` names. BpfError, naming both, where a digest differs."""
        found = {}
        for item in spec.objects:
            if item.digest not in self._files:
                self._files[item.digest] = self._read(item.name, item.digest)
            found[item.name] = self._files[item.digest][0]
        wanted = {item.digest for item in spec.objects}
        self._files = {digest: file for digest, file in self._files.items() if digest in wanted}
        return found

    def open(self, name: str) -> BpfObject:
        """A fresh BpfObject of the bytes that `files` checked."""
        data = next(data for file, data in self._files.values() if file.name == name)
        return BpfObject.open(self.directory / f"{name}.bpf.o", data=data)

    def _read(self, name: str, digest: str) -> tuple[ObjectFile, bytes]:
        data = load_manifest(self.directory).read(name, digest)
        with BpfObject.open(self.directory / f"{name}.bpf.o", data=data) as found:
            file = ObjectFile(
                name=name,
                digest=digest,
                programs=tuple(sorted(found.programs)),
                maps=found.maps,
                rodata=found.constants,
            )
        return file, data
