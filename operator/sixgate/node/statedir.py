"""The state directory: what must outlive the process and is in no pin. One small JSON file per subject, replaced
atomically, so that dying at any instruction leaves the old or the new one."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sixgate.errors import ApplyError
from sixgate.node.carry import MapFields
from sixgate.node.model import Remembered, SizeKey, Sizes
from sixgate.node.numbers import SpaceNumbers
from sixgate.node.numbers import as_json as numbers_as_json
from sixgate.node.numbers import from_json as numbers_from_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sixgate.node.numbers import Numbers

_STATE = "state.json"
_SIZES = "sizes.json"
SIZES_REPORT = "bigtcp.json"  # of all devices, for `sixgate bigtcp status`
_TESTED = "bigtcp-test.json"
_FIELDS = "map-fields.json"
NUMBERS = "numbers.json"  # `sixgate nat` reads names of objects from it
BALANCERS = "balancers.json"  # name of each balancer to its table, for `sixgate lb`
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class KnownWays:
    """Ways on which this kernel was seen to carry super-packets of more than 64 KB."""

    forwards_ipv6: bool = False
    tunnels: bool = False


@dataclass(frozen=True, slots=True)
class StateDir:
    path: Path

    def read(self, name: str) -> Any:
        """Parsed contents of one file; None where there is none or it cannot be read as JSON."""
        try:
            return json.loads((self.path / name).read_text())
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        except OSError as error:
            raise ApplyError(f"{self.path / name} cannot be read: {error.strerror}.", error.errno or 0) from error

    def write(self, name: str, value: Any) -> None:
        """Replace one file; unchanged contents are not written again."""
        text = json.dumps(value, indent=1, sort_keys=True) + "\n"
        target = self.path / name
        try:
            if target.exists() and target.read_text() == text:
                return
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile("w", dir=self.path, prefix=f".{name}.", delete=False) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).replace(target)
        except OSError as error:
            raise ApplyError(f"{target} cannot be written: {error.strerror}.", error.errno or 0) from error

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def clean(self) -> None:
        """Remove half-written files of processes that were killed, and then the directory if nothing is left."""
        for leftover in self.path.glob(".*.json.*"):
            leftover.unlink(missing_ok=True)
        if self.path.is_dir() and not any(self.path.iterdir()) and not os.path.ismount(self.path):
            self.path.rmdir()  # where it is mounted into a container, the node keeps an empty directory

    def remembered(self) -> Remembered:
        """What was recorded since this boot; nothing after a reboot, when the kernel has forgotten it all."""
        raw = self.read(_STATE)
        if not isinstance(raw, dict) or raw.get("boot") != _boot_id():
            return Remembered()
        return Remembered(
            sysctls=dict(raw.get("sysctls", {})),
            prog_ids=frozenset(raw.get("programs", ())),
            qdiscs=frozenset(raw.get("qdiscs", ())),
            filters=frozenset(raw.get("filters", ())),
            tables=frozenset(raw.get("tables", ())),
            layouts=dict(raw.get("layouts", {})),
            mounted=str(raw.get("mounted", "")),
        )

    def remember(self, remembered: Remembered) -> None:
        self.write(
            _STATE,
            {
                "boot": _boot_id(),
                "sysctls": dict(remembered.sysctls),
                "programs": sorted(remembered.prog_ids),
                "qdiscs": sorted(remembered.qdiscs),
                "filters": sorted(remembered.filters),
                "tables": sorted(remembered.tables),
                "layouts": dict(remembered.layouts),
                "mounted": remembered.mounted,
            },
        )

    def forget(self) -> None:
        self.remove(_STATE)
        self.remove(_SIZES)
        self.remove(_TESTED)
        self.remove(_FIELDS)
        self.remove(NUMBERS)
        self.remove(SIZES_REPORT)
        self.remove(BALANCERS)

    def original_sizes(self) -> dict[SizeKey, Sizes]:
        """Packet sizes of devices before they were changed; nothing after a reboot, when they have them again."""
        raw = self.read(_SIZES)
        if not isinstance(raw, dict) or raw.get("boot") != _boot_id():
            return {}
        return {SizeKey(*entry[:3]): Sizes(*entry[3:]) for entry in raw.get("originals", ())}

    def remember_sizes(self, originals: Mapping[SizeKey, Sizes]) -> None:
        listed = [[*astuple(key), *astuple(sizes)] for key, sizes in sorted(originals.items())]
        if listed:
            self.write(_SIZES, {"boot": _boot_id(), "originals": listed})
        else:
            self.remove(_SIZES)

    def map_fields(self) -> dict[str, MapFields]:
        """Layouts of state maps that were pinned since this boot, by hash."""
        raw = self.read(_FIELDS)
        if not isinstance(raw, dict) or raw.get("boot") != _boot_id():
            return {}
        parsed = {digest: MapFields.from_json(item) for digest, item in raw.get("layouts", {}).items()}
        return {digest: fields for digest, fields in parsed.items() if fields is not None}

    def remember_map_fields(self, fields: Mapping[str, MapFields]) -> None:
        layouts = {digest: item.as_json() for digest, item in fields.items()}
        self.write(_FIELDS, {"boot": _boot_id(), "layouts": layouts})

    def numbers(self) -> dict[str, SpaceNumbers]:
        """Numbers that were handed out since this boot: arrays of the data plane are arranged by them."""
        raw = self.read(NUMBERS)
        if not isinstance(raw, dict) or raw.get("boot") != _boot_id():
            return {}
        return numbers_from_json(raw.get("spaces"))

    def remember_numbers(self, numbers: Numbers) -> None:
        if numbers:
            self.write(NUMBERS, {"boot": _boot_id(), "spaces": numbers_as_json(numbers)})
        else:
            self.remove(NUMBERS)

    def tested(self) -> KnownWays:
        """What `sixgate bigtcp test` has found since this boot; nothing is known to work before."""
        raw = self.read(_TESTED)
        if not isinstance(raw, dict) or raw.get("boot") != _boot_id():
            return KnownWays()
        return KnownWays(raw.get("forwardsIPv6") is True, raw.get("tunnels") is True)

    def remember_test(self, tested: KnownWays) -> None:
        self.write(_TESTED, {"boot": _boot_id(), "forwardsIPv6": tested.forwards_ipv6, "tunnels": tested.tunnels})


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()
