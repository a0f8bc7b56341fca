"""Prints a CycloneDX 1.5 document of the machine it runs on: Debian packages, Python packages, BPF objects.

    python sbom.py VERSION [BPF_DIRECTORY]

Sorted and without a time or a random number: equal images give equal documents. Needs only the standard library.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

Component = dict[str, Any]


def debian() -> list[Component]:
    """Installed packages as dpkg lists them."""
    form = "${Package}\t${Version}\t${Architecture}\n"
    told = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True).stdout
    rows = (line.split("\t") for line in told.splitlines())
    return [
        {"type": "library", "name": name, "version": version, "purl": f"pkg:deb/debian/{name}@{version}?arch={arch}"}
        for name, version, arch in rows
    ]


def python() -> list[Component]:
    """Distributions that this interpreter finds."""
    found = {}
    for item in distributions():
        name = item.metadata["Name"]
        licence = str(item.metadata.json.get("license_expression", ""))
        found[name.lower()] = {
            "type": "library", "name": name, "version": item.version, "purl": f"pkg:pypi/{name.lower()}@{item.version}",
            **({"licenses": [{"expression": licence}]} if licence else {}),
        }  # fmt: skip
    return list(found.values())


def bpf(directory: Path) -> list[Component]:
    """The objects that the manifest names, with their digests."""
    digests = json.loads((directory / "manifest.json").read_text())["objects"]
    return [
        {
            "type": "file",
            "name": f"{name}.bpf.o",
            "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}],
        }
        for name, digest in digests.items()
    ]


def document(version: str, directory: Path) -> dict[str, Any]:
    components = [*debian(), *python(), *bpf(directory)]
    components.sort(key=lambda item: (item["type"], item.get("purl", ""), item["name"]))
    return {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": {"type": "container", "name": "sixgate", "version": version}},
        "components": components,
    }  # fmt: skip


if __name__ == "__main__":
    where = Path(sys.argv[2] if len(sys.argv) > 2 else "/usr/lib/sixgate/bpf")
    json.dump(document(sys.argv[1], where), sys.stdout, indent=1)
