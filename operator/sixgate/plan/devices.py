"""Whether two sets of device patterns can mean one device: what makes two policies of a node contradict each other."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import lru_cache

from sixgate.api.bigtcppolicy import BIGTCPPolicy

AUTO = "auto"
_SPECIAL = frozenset("*?[")


def policies_overlap(one: BIGTCPPolicy, other: BIGTCPPolicy) -> str:
    """A pattern of `one` that means a device of `other` too, empty if there is none or if one goes before the other.

    Two policies contradict each other at equal priority and for a family that both speak of.
    """
    a, b = one.spec, other.spec
    families = ((a.ipv6, b.ipv6), (a.ipv4, b.ipv4))
    if a.priority != b.priority or not any(x is not None and y is not None for x, y in families):
        return ""
    for mine in a.devices.include:
        for theirs in b.devices.include:
            excluded = (*a.devices.exclude, *b.devices.exclude)
            if patterns_meet(mine, theirs) and not any(_covers(shield, mine, theirs) for shield in excluded):
                return mine
    return ""


def patterns_meet(one: str, other: str) -> bool:
    """Whether some name matches both shell patterns. `auto` may be any device, so it meets everything.

    A pattern with a bracket is taken to match what its literal beginning allows: rather a conflict too many.
    """
    if AUTO in (one, other):
        return True
    if not _SPECIAL & set(one):
        return fnmatchcase(one, other)
    if not _SPECIAL & set(other):
        return fnmatchcase(other, one)
    return _meet(_loose(one), _loose(other))


def _covers(shield: str, one: str, other: str) -> bool:
    """Whether an exclusion leaves nothing of what two includes share; decided for plain names and equal patterns."""
    shared = one if not _SPECIAL & set(one) and one != AUTO else other
    if _SPECIAL & set(shared) or shared == AUTO:
        return shield in (one, other)
    return fnmatchcase(shared, shield)


def _loose(pattern: str) -> str:
    return pattern.split("[", 1)[0] + "*" if "[" in pattern else pattern


@lru_cache(maxsize=4096)
def _meet(one: str, other: str) -> bool:
    """Whether two patterns of `*`, `?` and letters have a name in common."""
    if not one or not other:
        return set(one + other) <= {"*"}
    if one[0] == "*":
        return _meet(one[1:], other) or _meet(one, other[1:])
    if other[0] == "*":
        return _meet(one, other[1:]) or _meet(one[1:], other)
    return (one[0] == other[0] or "?" in (one[0], other[0])) and _meet(one[1:], other[1:])
