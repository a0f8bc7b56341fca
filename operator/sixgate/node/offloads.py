"""Offloads of our own devices, through the ethtool ioctl: off, so that whole and finished packets cross them."""

from __future__ import annotations

import contextlib
import errno

from pyroute2.ethtool.ioctl import IoctlEthtool, NoSuchDevice, NotSupportedError

from sixgate.errors import ApplyError

_EXACT = frozenset({"rx-gro", "rx-gro-list", "rx-udp-gro-forwarding", "rx-gro-hw", "rx-lro", "tx-nocache-copy"})
_PREFIXES = ("tx-checksum-", "tx-scatter-gather", "tx-gso-")


def still_on(name: str) -> tuple[str, ...]:
    """Names of segmentation, checksum and merging features of a device that are on and can be switched off; none for
    a device that is gone."""
    with contextlib.closing(IoctlEthtool(name)) as ethtool:
        try:
            features = ethtool.get_features()
        except (NoSuchDevice, NotSupportedError):
            return ()
        return tuple(
            sorted(
                feature
                for feature in features.keys()  # noqa: SIM118 - iterating it yields tuples
                if _matters(feature)
                and features.is_active(feature)
                and features.is_available(feature)
                and not features.is_never_changed(feature)
            )
        )


def switch_off(name: str) -> None:
    """Switch all of them off and look again."""
    wanted = still_on(name)
    if not wanted:
        return
    with contextlib.closing(IoctlEthtool(name)) as ethtool:
        features = ethtool.get_features()
        for feature in wanted:
            features[feature] = False
        try:
            ethtool.set_features(features)
        except OSError as error:
            raise ApplyError(
                f"The kernel refused to switch offloads of {name} off: {error.strerror}.", error.errno or 0
            ) from error
        except NotSupportedError:
            # ETHTOOL_SFEATURES answers with a positive number where features depend on each other: look again.
            pass
    left = still_on(name)
    if left:
        raise ApplyError(f"Offloads of {name} should be off, but {', '.join(left)} stayed on.", errno.EOPNOTSUPP)


def _matters(feature: str) -> bool:
    return (
        feature in _EXACT or feature.startswith(_PREFIXES) or (feature.startswith("tx-") and "segmentation" in feature)
    )
