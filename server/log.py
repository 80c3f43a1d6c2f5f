"""Logs are events: one line each, to standard error, as `key=value` or JSON. Never a payload, never a secret.

Room: the format, and the names of the events that the machines report. INFO is what an operator acts on.
"""

from __future__ import annotations

import json
import logging
import sys
import time

from sync.step import Report

__all__ = ["LEVELS", "report", "set_up_logging"]

_SERIOUS = {"commit_failed", "document_unreadable", "document_diverged", "change_rejected", "update_refused"}
LEVELS = ("debug", "info", "warning", "error")


class _Line(logging.Formatter):
    """`2026-11-23T04:05:06.789Z INFO skerry.edge document_healed doc='notes/plan'`."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{moment}.{int(record.msecs):03d}Z"

    def format(self, record: logging.LogRecord) -> str:
        line = f"{self.formatTime(record)} {record.levelname} {record.name} {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(_Line):
    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "room": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, ensure_ascii=False)


def set_up_logging(level: str, style: str) -> None:
    """`style`: "line" or "json". The libraries below are heard from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if style == "json" else _Line())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("skerry").setLevel(level.upper())
    logging.getLogger("nats").setLevel(logging.ERROR)  # its reconnection noise; the bus says what matters
    logging.getLogger("websockets").setLevel(logging.ERROR)


def report(log: logging.Logger, event: Report) -> None:
    """A machine's report as a log event."""
    level = logging.WARNING if event.event in _SERIOUS else logging.INFO
    if event.doc is None:
        log.log(level, "%s detail=%r", event.event, event.detail)
    else:
        log.log(level, "%s doc=%r detail=%r", event.event, event.doc, event.detail)
