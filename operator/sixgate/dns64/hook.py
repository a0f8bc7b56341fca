"""Runs inside unbound, twice: above its dns64 module (number 0) and below it (number 2).

Below, the answer to AAAA is seen as the validator leaves it: `rules.examine` says whether A is to be asked, which the
dns64 module between does. Above, the AAAA records that this module has made are put right by `rules.synthesize` and
cached. A cached answer never comes here, so that it costs what any cached answer costs.

Copied beside the resolver with rules.py. unbound 1.17 runs the scripts of all its python modules in one namespace and
borrows their functions: both scripts must give it the very same function objects, which this module owns.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from threading import get_ident
from typing import Any

import unboundmodule as ub
from sixgate_dns64_rules import AAAA, KEEP, NOERROR, NXDOMAIN, SERVFAIL, A, Finding, Rrset, Rules, examine, synthesize

ABOVE = 0
CLASS_IN = 1
BOGUS, INSECURE = 1, 3  # enum sec_status
TRUST_ANSWER = 8  # rrset_trust_ans_AA: cached as an answer, not as a hint
RCODE_BITS = 0xF

rules = Rules.from_json(Path(__file__).with_name("rules.json").read_text())
# What the instance below found, for the one above. A thread of unbound has one state per name, type and flags. Of a
# state that unbound drops before it is finished the finding stays: hence a limit.
findings: dict[tuple[int, bytes, int], Finding] = {}
MAX_FINDINGS = 1 << 16
gc.freeze()  # nothing that is made per answer refers to itself: what is there now need not be looked through again


def init(number: int, config: Any) -> bool:
    return True


def deinit(number: int) -> bool:
    return True


def inform_super(number: int, state: Any, above: Any, data: Any) -> bool:
    return True


def operate(number: int, event: int, state: Any, data: Any) -> bool:
    """One step of one query, on its way down or up."""
    if event in (ub.MODULE_EVENT_NEW, ub.MODULE_EVENT_PASS):
        if number == ABOVE and _concerns(state):
            state.no_cache_store = 1  # the answer below is not yet the answer
        state.ext_state[number] = ub.MODULE_WAIT_MODULE
    elif event == ub.MODULE_EVENT_MODDONE:
        if number != ABOVE and state.qinfo.qtype == A and _key(state) in findings:
            _note_failure(state)
        if _concerns(state):
            (_above if number == ABOVE else _below)(state)
        state.ext_state[number] = ub.MODULE_FINISHED
    else:
        ub.log_err(f"sixgate: the event {ub.strmodulevent(event)} is not known")
        state.ext_state[number] = ub.MODULE_ERROR
    return True


def _concerns(state: Any) -> bool:
    return bool(
        state.qinfo.qtype == AAAA and state.qinfo.qclass == CLASS_IN and not state.is_priming and not state.is_valrec
    )


def _below(state: Any) -> None:
    """Decides. The dns64 module above asks for A where there is no AAAA record and CD is not set."""
    if state.query_flags & ub.QF_BIT_CD:
        return  # RFC 6147 5.5: who validates for himself gets what there is
    reply = state.return_msg.rep if state.return_msg else None
    finding = _finding(state, reply)
    if len(findings) >= MAX_FINDINGS:
        findings.pop(next(iter(findings)), None)
    findings[_key(state)] = finding
    if finding.answer is not None:
        _replace(state, finding.answer, () if finding.synthesize else _section(reply, "authority"), NOERROR)
    if not finding.synthesize:
        state.query_flags |= ub.QF_BIT_CD  # until _above takes it back, without anything else running in between


def _key(state: Any) -> tuple[int, bytes, int]:
    return (get_ident(), bytes(state.qinfo.qname), state.query_flags & ~ub.QF_BIT_CD)


def _finding(state: Any, reply: Any) -> Finding:
    if reply is None:
        return examine(rules, state.qinfo.qname, state.return_rcode or SERVFAIL, (), ())
    if reply.security == BOGUS:
        return KEEP  # 5.5: what does not validate is an error, not an empty answer
    rcode = state.return_rcode or reply.flags & RCODE_BITS
    return examine(rules, state.qinfo.qname, rcode, _section(reply, "answer"), _section(reply, "authority"))


def _note_failure(state: Any) -> None:
    """A question for A is done while one for AAAA waits for it: 5.1.6, an error becomes the answer to both.

    The dns64 module would answer that there is no AAAA record, which nobody knows.
    """
    reply = state.return_msg.rep if state.return_msg else None
    if reply is None or reply.security == BOGUS or state.return_rcode not in (NOERROR, NXDOMAIN):
        findings[_key(state)] = replace(findings[_key(state)], a_failed=True)


def _above(state: Any) -> None:
    """Puts right what the dns64 module has made, and caches what has come of it all."""
    reply = state.return_msg.rep if state.return_msg else None
    if state.query_flags & ub.QF_BIT_CD:
        finding = findings.get(_key(state))
        if finding is not None and not finding.synthesize:  # set by _below just now: nothing ran in between
            del findings[_key(state)]
            state.query_flags &= ~ub.QF_BIT_CD
        elif reply is None or _has_excluded(reply):
            # Cached records are shared: these must not come to those for whom they are excluded.
            if reply is not None:
                ub.invalidateQueryInCache(state, state.return_msg.qinfo)
            return
    else:
        finding = findings.pop(_key(state), KEEP)
        if finding.a_failed:
            state.return_rcode = SERVFAIL
            state.return_msg = None
        if finding.synthesize and reply is not None and state.return_rcode == NOERROR:
            answer = _section(reply, "answer")
            if any(rrset.rtype == AAAA for rrset in answer):
                made = synthesize(rules, finding, answer)
                is_empty = all(rrset.rtype != AAAA for rrset in made)
                _replace(state, made, finding.soa if is_empty else _section(reply, "authority"), NOERROR)
    if state.return_msg and state.return_msg.rep and state.return_rcode == NOERROR:
        state.return_msg.rep.authoritative = 0
        state.no_cache_store = 0
        ub.storeQueryInCache(state, state.return_msg.qinfo, state.return_msg.rep, 0)


def _has_excluded(reply: Any) -> bool:
    answer = _section(reply, "answer")
    return any(rdata in rules.exclude_ipv6 for rrset in answer if rrset.rtype == AAAA for rdata in rrset.records)


def _section(reply: Any, name: str) -> tuple[Rrset, ...]:
    first, count = (0, reply.an_numrrsets) if name == "answer" else (reply.an_numrrsets, reply.ns_numrrsets)
    return tuple(_rrset(reply.rrsets[number]) for number in range(first, first + count))


def _rrset(key: Any) -> Rrset:
    data = key.entry.data
    every = range(data.count + data.rrsig_count)
    return Rrset(
        name=bytes(key.rk.dname),
        rtype=ub.ntohs(key.rk.type),
        ttls=tuple(data.rr_ttl[number] for number in every),
        rdatas=tuple(bytes(data.rr_data[number])[2:] for number in every),
        signatures=data.rrsig_count,
    )


def _replace(state: Any, answer: tuple[Rrset, ...], authority: tuple[Rrset, ...], rcode: int) -> None:
    """Gives `state` another message: not signed any more, so never with the AD bit."""
    message = ub.DNSMessage(state.qinfo.qname_str, AAAA, CLASS_IN, ub.PKT_QR | ub.PKT_RA)
    message.answer = [text for rrset in answer for text in rrset.texts()]
    message.authority = [text for rrset in authority for text in rrset.texts()]
    if not message.set_return_msg(state):
        ub.log_err(f"sixgate: no answer can be made for {state.qinfo.qname_str}")
        state.return_rcode = SERVFAIL
        return
    state.return_rcode = rcode
    reply = state.return_msg.rep
    reply.authoritative = 0
    reply.security = INSECURE
    for number in range(reply.rrset_count):
        reply.rrsets[number].entry.data.trust = TRUST_ANSWER
        reply.rrsets[number].entry.data.security = INSECURE
