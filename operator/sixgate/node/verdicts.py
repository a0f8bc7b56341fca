"""Names of verdicts, as people and metrics say them. Pure."""

from __future__ import annotations

from typing import Literal, TypeAlias, cast

from sixgate.node.bpf.layouts import REASONS, SgReason

Verdict: TypeAlias = Literal["pass", "ok", "slow", "drop"]


def verdict_of(reason: str) -> tuple[Verdict, str]:
    """What was done with a packet, and why, of the name in C: SG_DROP_TTL is ("drop", "ttl").

    pass: left untouched for the kernel; ok: done; slow: handed to the next hook, which counts it again; drop: dropped.
    """
    verdict, _, why = reason.removeprefix("SG_").lower().partition("_")
    return cast("Verdict", verdict), why


def meaning_of(reason: str) -> str:
    """What the reason means, in words; empty of one that this version does not know."""
    known = SgReason.__members__.get(reason)
    return REASONS.get(known, "") if known is not None else ""
