"""Every shipped object loads under many combinations of constants: what is behind a flag is only verified then.

With SIXGATE_THOROUGH in the environment (`make nightly`), under every one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import reduce
from itertools import combinations, product

import pytest

from sixgate.node.bpf import BpfObject, Manifest, layouts
from sixgate.node.bpf.layouts import MAPS, SgFeature
from tests.bpf.harness import OBJECTS
from tools.bpf_stack import chains
from tools.build_bpf import object_name

MOST_INSNS = 500_000  # the kernel gives up at a million
CONSTANT = "sg_cfg"
ROOM = 65536  # sessions; with none, walks over them are no code that a verifier would look at
# Values of struct sg_config that switch code on and off, beside the feature bits.
CHOICES: dict[str, tuple[int, ...]] = {"slow_dev": (0, 1), "l2_len": (0, 14), "icmp_rate": (0, 10)}


def feature_sets() -> Iterator[int]:
    """Every subset of enum sg_feature, as bits, where SIXGATE_THOROUGH is set; else none, all, each alone, and all but
    each: a feature is a call of functions that are verified by themselves, so what matters is who else is there."""
    flags = [int(flag) for flag in SgFeature]
    sizes = range(len(flags) + 1) if os.environ.get("SIXGATE_THOROUGH") else {0, 1, len(flags) - 1, len(flags)}
    for size in sorted(sizes):
        for chosen in combinations(flags, size):
            yield reduce(int.__or__, chosen, 0)


def value_sets() -> Iterator[dict[str, int]]:
    """The same for the other constants: all switched on, each switched off; all combinations where thorough."""
    if os.environ.get("SIXGATE_THOROUGH"):
        yield from (dict(zip(CHOICES, values, strict=True)) for values in product(*CHOICES.values()))
        return
    on = {name: values[-1] for name, values in CHOICES.items()}
    yield on
    yield from ({**on, name: values[0]} for name, values in CHOICES.items())


def all_constants() -> Iterator[dict[str, int]]:
    """Constants beside the features are varied with all features on; all combinations where thorough."""
    every = reduce(int.__or__, (int(flag) for flag in SgFeature), 0)
    on = {name: values[-1] for name, values in CHOICES.items()}
    for features in feature_sets():
        thorough = os.environ.get("SIXGATE_THOROUGH") or features == every
        for values in value_sets() if thorough else [on]:
            yield {"features": features, "st_ids": ROOM, **values}


def names() -> list[str]:
    """Objects that are built; where none are yet, the fixture builds them and the sources name them."""
    found = {object_name(path) for path in OBJECTS.glob("sg_*.bpf.o")}
    return sorted(found | {object_name(path) for path in OBJECTS.parents[1].glob("bpf_src/sg_*.bpf.c")})


@pytest.mark.parametrize("name", names())
def test_every_combination_of_constants_loads(
    name: str, shipped: Manifest, record_property: Callable[[str, object], None]
) -> None:
    data = shipped.read(name)
    most: dict[str, int] = {}
    for values in all_constants():
        with BpfObject.open(name, data=data) as opened:
            known = {field.name for field in opened.constants.fields}
            opened.set_constants({CONSTANT: values} if CONSTANT in known else {})
            opened.load()
            for program in opened.programs:
                with opened.program(program) as loaded:
                    most[program] = max(most.get(program, 0), loaded.info.verified_insns)
    for program, count in most.items():
        record_property("verified_insns", f"{name} {program}: {count:,}")
        assert count <= MOST_INSNS, f"{program} of {name} takes the verifier {count:,} instructions"


@pytest.mark.parametrize("name", names())
def test_layouts_are_those_of_the_object(name: str, shipped: Manifest) -> None:
    with BpfObject.open(name, data=shipped.read(name)) as opened:
        for map_name, spec in opened.maps.items():
            assert MAPS.get(map_name) == spec, f"run `make generate`: {layouts.__file__} differs from {name}"
            assert len(map_name) <= 15, f"the kernel cuts {map_name} to {map_name[:15]}"


@pytest.mark.parametrize("name", names())
def test_stack_is_that_of_older_kernels(name: str, shipped: Manifest) -> None:
    """This kernel rounds frames up to 16 bytes, Linux 6.1 to 32."""
    found = chains(OBJECTS / f"{name}.bpf.o")
    assert found, f"{name} has no program"
    for program, chain in found.items():
        assert chain.fits, f"{program}: {chain.bytes} bytes, {chain.frames} frames: {' > '.join(chain.names)}"
