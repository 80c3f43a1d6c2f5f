"""What is edited by hand: read from standard input, or in an editor, and brought into the document as the difference.

Room: one text, and where it comes from. What is done with it afterwards, and told, is the command's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from sync.document import JsonValue
from sync.errors import StoreError

from . import files, places
from .document import OpenDocument
from .reaching import NotGiven, temporary

__all__ = ["Draft", "in_editor", "read_back", "standard_input"]


class Draft:
    """What is edited: a text as it is, anything else as JSON."""

    def __init__(self, plan: OpenDocument, place: places.Path | None, correlation: str) -> None:
        """Raises WrongKind."""
        self.plan = plan
        self.correlation = correlation
        if place is None:
            try:
                place = files.text_place(plan)
            except places.WrongKind:
                place = ()
        self.place = place
        try:
            self.value = places.value_at(plan, place)
        except places.UnknownPath:
            if len(place) != 1:
                raise
            self.value = ""
        self.is_text = isinstance(self.value, str)
        self.text = str(self.value) if self.is_text else json.dumps(self.value, ensure_ascii=False, indent=2) + "\n"

    def apply(self, text: str) -> bool:
        """Editors and `echo` end a text with a line feed that was not there: that one is no edit."""
        if self.is_text:
            if text.endswith("\n") and not self.text.endswith("\n"):
                text = text.removesuffix("\n")
            return places.put(self.plan, self.place, text, correlation=self.correlation)
        value = places.parse_json(text)
        if not self.place and isinstance(self.value, dict) and isinstance(value, dict):
            value = {**{root: _emptied(was) for root, was in self.value.items() if root not in value}, **value}
        return places.put(self.plan, self.place, value, correlation=self.correlation)


def _emptied(value: JsonValue) -> JsonValue:
    return "" if isinstance(value, str) else [] if isinstance(value, list) else {}


def standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotGiven(f"standard input: not UTF-8 ({error.reason} at byte {error.start}); convert it first") from None


async def in_editor(draft: Draft) -> Path:
    """The file, when the editor has ended. Raises NotGiven."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        raise NotGiven("no editor; set EDITOR, or give the text on standard input")
    path = temporary() / ("text.txt" if draft.is_text else "value.json")
    try:
        path.write_bytes(draft.text.encode("utf-8"))
    except OSError as error:
        shutil.rmtree(path.parent, ignore_errors=True)
        raise StoreError(f"{path}: {error.strerror}; free some space, or name another place with TMPDIR") from None
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the editor's
    try:
        done = await asyncio.to_thread(subprocess.run, [*shlex.split(editor), str(path)], check=False)
        failed = f"ended with status {done.returncode}" if done.returncode else ""
    except (OSError, ValueError) as error:
        failed = str(error)
    finally:
        signal.signal(signal.SIGINT, before)
    if failed:
        kept = f"what is typed is in {path}"
        with contextlib.suppress(OSError):
            if path.read_bytes() == draft.text.encode("utf-8"):
                shutil.rmtree(path.parent)
                kept = "nothing was typed"
        raise NotGiven(f"editor {editor!r}: {failed}; nothing was changed, {kept}")
    return path


def read_back(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotGiven(f"{path}: {error}") from None
