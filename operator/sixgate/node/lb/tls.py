"""TLS of health checks: contexts that are made once, and sentences about certificates that are not believed.

Certificates of backends are verified where the object says so. Where one is not believed, the backend is asked a second
time in order to say what it showed: OpenSSL tells what failed, and Python gives a certificate's fields only of a
handshake that succeeded. That second look believes the same authorities and forgives dates and names.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sixgate.api.nodeconfig_lb import BalancerCheck, BalancerTls

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which Python has no name for
_NAME_CODES, _TIME_CODES = frozenset({62, 64}), frozenset({9, 10})  # X509_V_ERR_*_MISMATCH, _NOT_YET_VALID, _EXPIRED
_MOST_NAMES = 5


class AuthoritiesError(Exception):
    """The authorities that certificates are to be verified with cannot be had; a sentence's end."""


@dataclass(frozen=True, slots=True)
class _Authorities:
    """What a context is made of; `stamp` changes when the file does."""

    bundle: str
    file: str
    stamp: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        if not self.bundle and not self.file:
            return "the node's own authorities"
        return f"authorities of {self.file or 'spec.healthCheck.tls.caBundle'}"


def name_of(check: BalancerCheck, address: str) -> str:
    """The name, or the address, that a certificate must have."""
    named = (check.tls.server_name if check.tls is not None else "") or check.host
    return named.rstrip(".") or address


async def connect(
    check: BalancerCheck, address: str, limit: int = 65536, *protocols: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to `address` through TLS that offers ALPN `protocols`. ssl.SSLError, OSError, AuthoritiesError."""
    tls = check.tls
    if tls is None or not tls.verify:
        # An empty name is one that is not told: a server without a name gets none.
        named = (tls.server_name if tls is not None else "") or check.host
        context = _context(None, protocols, forgiving=False)
        return await asyncio.open_connection(address, check.port, ssl=context, server_hostname=named, limit=limit)
    context = _context(_authorities(tls), protocols, forgiving=False)
    return await asyncio.open_connection(
        address, check.port, ssl=context, server_hostname=name_of(check, address), limit=limit
    )


async def complaint(check: BalancerCheck, address: str, error: ssl.SSLCertVerificationError) -> str:
    """What was expected of the certificate of `address` and what was found, as a sentence's end."""
    assert check.tls is not None
    wanted, known = name_of(check, address), _authorities(check.tls)
    if error.verify_code in _NAME_CODES | _TIME_CODES:
        shown = await _look(check, address, known)
        if error.verify_code in _NAME_CODES:
            found = f"is for {_names(shown)}" if shown else "is for another name"
            return f"port {check.port} should show a certificate for {wanted}, but the one it shows {found}"
        which = "notBefore" if error.verify_code == min(_TIME_CODES) else "notAfter"
        said = "begins to be valid" if which == "notBefore" else "expired"
        when = f" at {shown[which]}" if shown and which in shown else ""
        return f"port {check.port} should show a certificate that is valid now, but the one it shows {said}{when}"
    found = error.verify_message or "it cannot be verified"
    return f"port {check.port} should show a certificate that {known} vouch for, but found: {found}"


async def _look(check: BalancerCheck, address: str, known: _Authorities) -> dict[str, str]:
    """Fields of the certificate that `address` shows: notBefore, notAfter, names; empty where it shows none now."""
    context = _context(known, (), forgiving=True)
    try:
        _, writer = await asyncio.open_connection(
            address, check.port, ssl=context, server_hostname=name_of(check, address)
        )
    except (OSError, ValueError):
        return {}
    try:
        shown = writer.get_extra_info("peercert") or {}
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    names = [str(value) for _, value in shown.get("subjectAltName", ())]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    fields = {key: str(shown[key]) for key in ("notBefore", "notAfter") if key in shown}
    return {**fields, "names": ", ".join(names[:_MOST_NAMES]) + more}


def _names(shown: dict[str, str]) -> str:
    return shown["names"] or "no name (subjectAltName)"


def _authorities(tls: BalancerTls) -> _Authorities:
    if not tls.ca_file:
        return _Authorities(tls.ca_bundle, "")
    try:
        found = Path(tls.ca_file).stat()
    except OSError as error:
        raise AuthoritiesError(f"{tls.ca_file} should have authorities (PEM), but {_why(error)}") from error
    return _Authorities("", tls.ca_file, (found.st_mtime_ns, found.st_ino))


@lru_cache(maxsize=256)
def _context(known: _Authorities | None, protocols: tuple[str, ...], *, forgiving: bool) -> ssl.SSLContext:
    """A context that believes `known`, or, with None, everybody; a forgiving one does not mind dates and names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = known is not None and not forgiving
    context.hostname_checks_common_name = False  # names are those of subjectAltName (RFC 9525 6.2)
    context.verify_mode = ssl.CERT_REQUIRED if known is not None else ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if known is None:
        return context
    if forgiving:
        context.verify_flags |= _NO_CHECK_TIME
    # A leaf, or an authority below a root, that the user names is believed as it is.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if known.bundle:
        context.load_verify_locations(cadata=known.bundle)
    elif known.file:
        try:
            context.load_verify_locations(cafile=known.file)
        except OSError as error:  # ssl.SSLError is one, too
            raise AuthoritiesError(f"{known.file} should have authorities (PEM), but {_why(error)}") from error
    else:
        context.load_default_certs()
    return context


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"it cannot be read as such ({(error.reason or 'no certificate').lower().replace('_', ' ')})"
    return f"it cannot be read: {(error.strerror or str(error)).lower()}"
