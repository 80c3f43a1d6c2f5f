"""Logs are events: one line each, to standard error, as `key=value` or JSON. Never a payload, a token, or a name.

Room: the format, and the names of the events that the machines report. INFO is what an operator acts on.

A document's name says what people work on, and logs travel further than documents: a log has `doc=#` and eight digits
that are the same for the same document everywhere. `skerry doc ls --hash` tells which one it is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
import time

from sync.errors import InvalidInput
from sync.ids import DocId, from_subject_token, subject_token
from sync.step import Report

__all__ = ["LEVELS", "named", "report", "scrubbed", "set_up_logging", "without_subjects"]

_SERIOUS = {
    "commit_failed",
    "document_unreadable",
    "document_diverged",
    "document_gives_way",
    "client_id_clash",
    "change_rejected",
    "update_refused",
}
LEVELS = ("debug", "info", "warning", "error")


class _Line(logging.Formatter):
    """`2026-11-23T04:05:06.789Z INFO skerry.edge document_healed doc='notes/plan'`."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{moment}.{int(record.msecs):03d}Z"

    def format(self, record: logging.LogRecord) -> str:
        line = f"{self.formatTime(record)} {record.levelname} {record.name} {record.getMessage()}"
        return without_subjects(f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line)


class _Json(_Line):
    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "room": record.name,
            "event": without_subjects(record.getMessage()),
        }
        if record.exc_info:
            event["exception"] = without_subjects(self.formatException(record.exc_info))
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
        log.log(level, "%s doc=%s detail=%r", event.event, named(event.doc), scrubbed(event.detail, event.doc))


def named(doc: DocId) -> str:
    """A document in a log."""
    return "#" + hashlib.blake2b(doc.encode("utf-8"), digest_size=4).hexdigest()


def scrubbed(text: str, doc: DocId | None) -> str:
    """A text that may repeat the name of this document, without it."""
    if doc is None:
        return text
    spellings = "|".join(re.escape(name) for name in sorted({doc, subject_token(doc)}, key=len, reverse=True))
    return re.sub(rf"(?<!\w)(?:{spellings})(?!\w)", named(doc), text)


_SUBJECT = re.compile(
    r"([\w-]+\.(?:changes\.\d+|merged|repair|presence\.[^\s.]+|snapshots|rejected|events))\.([^\s\"'*>;,)]+)"
)


def without_subjects(text: str) -> str:
    """NATS' own errors repeat subjects, and a subject ends with a document's name."""

    def hidden(match: re.Match[str]) -> str:
        try:
            token = match[2].rstrip(":")  # of the sentence
            return f"{match[1]}.{named(from_subject_token(token))}{match[2][len(token) :]}"
        except InvalidInput:
            return f"{match[1]}.(unreadable)"

    return _SUBJECT.sub(hidden, text) if "." in text else text
