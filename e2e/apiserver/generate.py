"""Objects that are wrong in ways nobody listed: valid ones mutated along their schema, and ones that know no schema.

Deterministic: the same seed gives the same objects. Every one keeps a kind and a name, so that it reaches a server.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import yaml

from e2e.apiserver.cluster import ROOT, Json

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTILE = (
    "", " ", "\n", "a\nb: c", "\"", "'", "\\", "{{ 7 * 7 }}", "{% raw %}", "{# x #}", "${HOME}", "$(id)", "`id`",
    "\x00",
    "\u202e", "../../etc/passwd", "}}]}", "null", "true", "0x10", "1e3", "- x", "*", "%s%n", "a" * 300, "ä" * 100,
    "&a *a", "!!python/object/apply:os.system [id]", "x\"\nadmin: true", "</script>",
)  # fmt: skip
ADDRESSES = (
    "0.0.0.0", "255.255.255.255", "127.0.0.1", "::", "::1", "fe80::1%eth0", "::ffff:10.0.0.1", "010.1.1.1", "1.2.3",
    "64:ff9b::/96", "64:ff9b::1/96", "2001:db8::/95", "0.0.0.0/0", "::/0", "10.0.0.0/33", "2001:db8::/129",
    "10.0.0.1/8",
    "2001:DB8::1", "2001:db8:0:0::1/128", "198.51.100.1", "198.51.100.0/24", "2001:db8:64:0:ff00::/96", "10.0.0.0/-1",
)  # fmt: skip
NUMBERS = (0, -1, 1, 7, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, -(2**63), 0.5, 1e300)
Path = tuple[str | int, ...]


def examples() -> list[Json]:
    """Every object of ours in examples/, all valid."""
    paths = sorted((ROOT / "examples").rglob("*.yaml"))
    documents = [document for path in paths for document in yaml.safe_load_all(path.read_text()) if document]
    return [document for document in documents if document["apiVersion"].startswith("sixgate.io/")]


def generate(count: int, seed: int = 1) -> Iterator[Json]:
    """`count` objects with names of their own; most are wrong, some have become right by chance."""
    rng = random.Random(seed)
    valid = examples()
    for number in range(count):
        document = copy.deepcopy(rng.choice(valid))
        document["metadata"] = {"name": f"generated-{seed}-{number}"}
        if rng.random() < 0.1:
            document["spec"] = _anything(rng, 4)
        else:
            for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
                _mutate(rng, document)
        yield document


def _paths(value: Any, here: Path = ()) -> Iterator[Path]:
    if here:
        yield here
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _paths(inner, (*here, key))


def _mutate(rng: random.Random, document: Json) -> None:
    if not isinstance(document.get("spec"), dict) or not document["spec"]:
        return
    *steps, last = rng.choice(list(_paths(document["spec"])))
    parent: Any = document["spec"]
    for step in steps:
        parent = parent[step]
    changes: tuple[Callable[[], None], ...] = (
        lambda: parent.__delitem__(last),
        lambda: parent.__setitem__(last, rng.choice(HOSTILE)),
        lambda: parent.__setitem__(last, rng.choice(ADDRESSES)),
        lambda: parent.__setitem__(last, rng.choice(ADDRESSES)),
        lambda: parent.__setitem__(last, rng.choice(NUMBERS)),
        lambda: parent.__setitem__(last, _anything(rng, 2)),
        lambda: _repeat(rng, parent, last),
        lambda: _add_field(rng, parent, last),
        lambda: _swap_with_another(rng, document, parent, last),
    )
    rng.choice(changes)()


def _repeat(rng: random.Random, parent: Any, last: Any) -> None:
    """A list with an item too often, or a value where a list of it is not expected."""
    value = parent[last]
    parent[last] = [*value, *value] * rng.choice((1, 2, 200)) if isinstance(value, list) and value else [value]


def _add_field(rng: random.Random, parent: Any, last: Any) -> None:
    target = parent[last] if isinstance(parent[last], dict) else parent
    if isinstance(target, dict):
        target[rng.choice(("unknown", "Spec", "__class__", "matchLabels", "prefix", *HOSTILE[:8]))] = _anything(rng, 1)


def _swap_with_another(rng: random.Random, document: Json, parent: Any, last: Any) -> None:
    """A value that is valid somewhere else in the same object."""
    *steps, other = rng.choice(list(_paths(document["spec"])))
    source: Any = document["spec"]
    for step in steps:
        source = source[step]
    parent[last] = copy.deepcopy(source[other])


def _anything(rng: random.Random, depth: int) -> Any:
    kind = rng.randrange(7 if depth else 5)
    if kind == 0:
        return rng.choice(HOSTILE)
    if kind == 1:
        return rng.choice(NUMBERS)
    if kind == 2:
        return rng.choice((True, False, None))
    if kind in {3, 4}:
        return rng.choice(ADDRESSES)
    if kind == 5:
        return [_anything(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice(HOSTILE) or "x": _anything(rng, depth - 1) for _ in range(rng.randrange(4))}
