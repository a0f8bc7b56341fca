"""How a long-running command logs: one line each on stderr, UTC, no colours."""

from __future__ import annotations

import logging
import time


def configure(verbose: bool = False) -> None:
    """Our own messages from INFO (DEBUG when `verbose`), libraries' from WARNING."""
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("sixgate").setLevel(logging.DEBUG if verbose else logging.INFO)
