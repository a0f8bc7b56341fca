"""Replays recorded packets (packet in, packet out, configuration) against a running gateway and counts what agrees.

    python -m e2e.conformance --vectors FILE [--only TEXT] [--level MUST] [--json FILE]

FILE is a JSON list of cases with `sends`, `expects` (with byte masks), `config` and `level`; it is no part of this
project. Every case prints PASS or FAIL with the bytes that differ; then come the count per group, the totals per level,
and the list of misses. Exit code 0 when every case of level MUST passes, 1 otherwise, 2 where the vectors are missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from e2e.lab.run import LabError, LabRun
from e2e.lab.sixgate import NODE, Sixgate
from e2e.lab.wire import Expected, Plan, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DEFAULT_VECTORS = Path("../shared/nat64/siit_vectors.json")
END_OF_DEVICE = {"to_client_v6": ("n6", 0), "to_jool_v6": ("n6", 1), "to_client_v4": ("n4", 0), "to_jool_v4": ("n4", 1)}


@dataclass(frozen=True, slots=True)
class Case:
    """One recorded exchange; `manifest` is the gateway object that its configuration asks for."""

    name: str
    group: str
    level: str
    remark: str
    manifest: str
    mtu: tuple[tuple[str, int, int], ...]  # (end, MTU of the gateway's device, MTU of the end's)
    sends: tuple[tuple[str, bytes], ...]
    expects: tuple[Expected, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    case: Case
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.differences


def gateway_manifest(config: dict[str, Any]) -> str:
    """The NAT46Gateway, as YAML, for the configuration of a case."""
    mappings = [{"ipv6": ipv6, "ipv4": ipv4} for ipv6, ipv4 in config["eamt"]]
    mapped = {mapping["ipv4"] for mapping in mappings}
    behind = [route.split()[0] for route in config["n4"]["routes"] if route.split()[0] not in mapped]
    stateless: dict[str, Any] = {
        "lowestIPv6MTU": config["lowest_ipv6_mtu"],
        "udpZeroChecksum": "Compute" if config["amend_udp_checksum_zero"] else "Drop",
        "trafficClass": "Zero" if config["zeroize_traffic_class"] else "Copy",
        "hairpinning": config["eam_hairpin_mode"] != "off",
    }
    if mappings:
        stateless["mappings"] = mappings
    if config["pool6"]:
        stateless["ipv4CIDRs"] = behind
    if config["rfc6791v4_prefix"]:
        stateless["icmpSourceCIDR"] = config["rfc6791v4_prefix"]
    if config["rfc6791v6_prefix"]:
        stateless["icmpSourceIPv6CIDR"] = config["rfc6791v6_prefix"]
    if config["override_tos"]:
        stateless["tos"] = config["tos"]
    return manifest(config["pool6"], stateless)


def manifest(prefix: str | None, stateless: dict[str, Any]) -> str:
    """One NAT46Gateway as YAML, without a practical limit on its ICMP errors."""
    spec: dict[str, Any] = {
        "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": NODE}},
        "icmpRateLimit": {"perSecond": 100000, "burst": 100000},
        "stateless": stateless,
    }
    if prefix:
        spec["prefix"] = prefix
    document = {
        "apiVersion": "sixgate.io/v1alpha1",
        "kind": "NAT46Gateway",
        "metadata": {"name": "vectors"},
        "spec": spec,
    }
    return str(yaml.safe_dump(document, sort_keys=False))


def parse_case(raw: dict[str, Any]) -> Case:
    """One element of the vector file."""
    mtu: dict[str, list[int]] = {"n6": [1500, 1500], "n4": [1500, 1500]}
    for device, value in raw["config"]["mtu"].items():
        end, side = END_OF_DEVICE[device]
        mtu[end][side] = value
    return Case(
        name=raw["name"],
        group=raw["group"],
        level=raw["level"],
        remark=raw["what"] or raw["note"] or "",
        manifest=gateway_manifest(raw["config"]),
        mtu=tuple((end, sides[0], sides[1]) for end, sides in mtu.items()),
        sends=tuple((send["iface_in"], bytes.fromhex(send["hex"])) for send in raw["sends"]),
        expects=tuple(
            Expected(expect["iface_out"], bytes.fromhex(expect["hex"]), bytes.fromhex(expect["mask"]))
            for expect in raw["expects"]
        ),
    )


def load(path: Path) -> tuple[list[Case], Plan]:
    """Cases, those of equal configuration together, and the addresses around the gateway that they all assume."""
    raw = json.loads(path.read_text())
    config = raw[0]["config"]
    end6 = config["n6"]["to_jool_v6"].split("/")[0]
    end4 = config["n4"]["to_jool_v4"].split("/")[0]
    plan = Plan(
        gateway6=config["gw"]["to_client_v6"],
        gateway4=config["gw"]["to_client_v4"],
        neighbours6=(end6,),
        neighbours4=(end4,),
        routes=tuple(config["gw"]["routes"]),
    )
    cases = [parse_case(item) for item in raw]
    first_use = {case.manifest: index for index, case in reversed(list(enumerate(cases)))}
    return sorted(cases, key=lambda case: (first_use[case.manifest], case.mtu)), plan


def replay(cases: Sequence[Case], plan: Plan, progress: Callable[[Outcome], None]) -> list[Outcome]:
    """Runs the cases against `sixgate standalone` in a lab of its own; `progress` is called after each."""
    outcomes = []
    with LabRun() as lab:
        wire = Wire(lab, plan)
        manifests = lab.workdir / "manifests"
        manifests.mkdir()
        gateway = Sixgate(lab, manifests)
        applied, revision = "", ""
        mtu: tuple[tuple[str, int, int], ...] = ()
        for case in cases:
            if case.mtu != mtu:
                for end, near, far in case.mtu:
                    wire.set_mtu(end, near, far)
            if case.manifest != applied:
                revision = apply_manifest(gateway, case.manifest, revision)
            elif case.mtu != mtu:
                revision = restart(gateway)
            applied, mtu = case.manifest, case.mtu
            outcome = Outcome(case, run_case(wire, case))
            progress(outcome)
            outcomes.append(outcome)
    return outcomes


def apply_manifest(gateway: Sixgate, text: str, revision: str) -> str:
    """Puts the object where the gateway reads it, and waits until it is in effect; returns the new revision."""
    scratch = gateway.manifests / ".new"
    scratch.write_text(text)
    scratch.replace(gateway.manifests / "vectors.yaml")
    if not gateway.running():
        gateway.start()
    return gateway.wait_ready(revision_not=revision)


def restart(gateway: Sixgate) -> str:
    """Starts the gateway process anew, so that it looks at its devices again; returns the revision."""
    gateway.stop()
    gateway.start()
    return gateway.wait_ready()


def run_case(wire: Wire, case: Case) -> tuple[str, ...]:
    try:
        return wire.exchange(case.sends, case.expects)
    except OSError as error:
        return (f"the packet could not be sent: {error.strerror}",)


def summary(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Lines for people: groups, totals per level, misses."""
    groups, levels = Counter(o.case.group for o in outcomes), Counter(o.case.level for o in outcomes)
    passed_groups = Counter(o.case.group for o in outcomes if o.passed)
    passed_levels = Counter(o.case.level for o in outcomes if o.passed)
    yield "groups: " + ", ".join(f"{name} {passed_groups[name]}/{count}" for name, count in groups.items())
    for level in sorted(levels):
        yield f"{level}: {passed_levels[level]} of {levels[level]}"
    for level in ("MUST", "SHOULD"):
        misses = [o.case.name for o in outcomes if o.case.level == level and not o.passed]
        yield f"misses of level {level}: {', '.join(misses) or 'none'}"


def describe(outcome: Outcome) -> str:
    """One line: PASS or FAIL, the case, and what differs."""
    case = outcome.case
    head = f"{'PASS' if outcome.passed else 'FAIL'} {case.level:6} {case.group}/{case.name}"
    if outcome.passed:
        return head
    return f"{head}  {' | '.join(outcome.differences)}" + (f"  [{case.remark}]" if case.remark else "")


def main() -> int:
    parser = argparse.ArgumentParser(description="Replay recorded translation vectors against sixgate.")
    parser.add_argument("--vectors", type=Path, default=DEFAULT_VECTORS, help="JSON file of cases")
    parser.add_argument("--only", default="", help="only cases whose group or name contains this")
    parser.add_argument("--level", default="", help="only cases of this level, such as MUST")
    parser.add_argument("--json", type=Path, help="write the outcomes to this file")
    args = parser.parse_args()
    if not args.vectors.is_file():
        sys.stderr.write(
            f"No vectors at {args.vectors}: they are no part of this project; name their file by --vectors.\n"
        )
        return 2
    cases, plan = load(args.vectors)
    chosen = [
        case
        for case in cases
        if args.only in f"{case.group}/{case.name}" and (not args.level or case.level == args.level)
    ]
    try:
        outcomes = replay(chosen, plan, lambda outcome: print(describe(outcome), flush=True))
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write("\n".join(summary(outcomes)) + "\n")
    if args.json:
        rows = [{"name": o.case.name, "level": o.case.level, "differences": o.differences} for o in outcomes]
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if all(o.passed for o in outcomes if o.case.level == "MUST") else 1


if __name__ == "__main__":
    sys.exit(main())
