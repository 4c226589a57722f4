"""Logging of a process: structlog to stderr, readable on a terminal or JSON lines.

Lines below the level cost a third of a microsecond and are never formatted; still, nothing is logged per message on a
hot path.  The node binds its name (and incarnation) once; what other libraries log through ``logging`` appears in the
same form, from warnings up.
"""

from __future__ import annotations

import logging
import sys
from typing import Final, TextIO

import structlog
from structlog.types import Processor

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure_logging(*, level: str = "info", json_lines: bool = False, stream: TextIO | None = None) -> None:
    """Set up logging for this process; call once, early.

    ``level`` is one of :data:`LEVELS`.  ``json_lines`` gives one JSON object per line with ``timestamp`` (ISO 8601,
    UTC), ``level``, ``event`` and the bound fields.  ``stream`` is stderr unless given.
    """
    out = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[Processor]
    if json_lines:
        render = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(sort_keys=False)]
    else:
        plain = structlog.dev.plain_traceback
        render = [structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=plain, pad_event_to=0)]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, LEVELS[level]))


def quiet_by_default() -> None:
    """Set up warnings only, unless this program has configured structlog itself: a library does not chatter."""
    if not structlog.is_configured():
        configure_logging(level="warning")
