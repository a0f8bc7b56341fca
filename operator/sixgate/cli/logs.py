"""How a long-running command logs: one line each on stderr, UTC, no colours; as text or as JSON objects."""

from __future__ import annotations

import logging
import time
from typing import Literal

import structlog

LogFormat = Literal["text", "json"]


def configure(verbose: bool = False, log_format: LogFormat = "text") -> None:
    """Our own messages from INFO (DEBUG when `verbose`), libraries' from WARNING."""
    handler = logging.StreamHandler()
    handler.setFormatter(_json() if log_format == "json" else _text())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("sixgate").setLevel(logging.DEBUG if verbose else logging.INFO)


def _text() -> logging.Formatter:
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    return formatter


def _json() -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.stdlib.ExtraAdder(),
        ],
        processors=[
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
    )
