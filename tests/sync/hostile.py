"""Hostile bytes as data, and the child process that shows them to pycrdt.

Run as a program it reads lines, `base <hex>` or `try <hex>`, and answers each `try` with one line: the verdict.
A child, because what it is given may end the process: an unanswered line names the killer.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pycrdt import Array, Doc, Map, Snapshot, Text, XmlFragment, get_state, merge_updates

from sync.errors import InvalidUpdate
from sync.lib0 import write_var_uint
from sync.validate import check_update

__all__ = ["AWARENESS", "STATE_VECTORS", "UPDATES", "Hostile", "astral_base", "show_to_pycrdt"]

TRY_S_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Hostile:
    name: str
    data: bytes
    refused: bool = True
    """False: well-formed, and wrong only beside a certain document; pycrdt has to survive it."""


def _found(name: str, text: str, *, refused: bool = True) -> Hostile:
    return Hostile(name, bytes.fromhex(text), refused)


def _update(structs: bytes, *, count: int = 1, client: int = 1, clock: int = 0, deletes: bytes = b"\0") -> bytes:
    """One client's section around `structs`."""
    return b"\1" + b"".join(map(write_var_uint, (count, client, clock))) + structs + deletes


def _text(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return write_var_uint(len(data)) + data


_ROOT: Final = b"\1\1a"  # parent: the root named "a"


def _json(text: str | bytes) -> bytes:
    """A format `b` with this value."""
    return _update(b"\6" + _ROOT + b"\1b" + _text(text))


def _any(value: bytes) -> bytes:
    return _update(b"\10" + _ROOT + b"\1" + value)


UPDATES: Final[tuple[Hostile, ...]] = (
    # What fuzzing of pycrdt 0.14.13 has found (facts 1.7).
    _found("kills the peer of a peer", "010101ffffffff0f2801036d61700168017c5380000000"),
    _found("deletes what is not there", "000101011901", refused=False),
    _found("deletes half a surrogate pair", "000101011306", refused=False),
    _found("panics in decoding 1", "0101011b28010161017c800000"),
    _found("panics in decoding 2", "0101011b017c400000000101011b01"),
    _found("panics in decoding 3", "0101012e2801036d61700168000000"),
    _found("panics in apply 1", "0101010100000001010180808080011b01"),
    _found("panics in apply 2", "010101010000007601017a7e000bc401040105062c206465617200"),
    _found("panics in apply 3", "010208ffffffffffffff0f87013a000800013d017c3f806a0000"),
    _found("root as its own child 1", "0101014a0101014a0700013f03017000"),
    _found("root as its own child 2", "0101014a0101014a0700013f03037000"),
    _found("root as its own child 3", "0101014a0101014a0600014d80804001"),
    _found("text that is not UTF-8", "01010100000000040104746578740b7ff06c6c6f206c6400"),
    _found("clock of 32 bits", "010101ffffffff0f040104746578740b68656c6c6f20776f726c6400"),
    # By construction.
    Hostile("arrays nested 26,500 deep", _any(b"\x75\1" * 26_500 + b"\x7e")),
    Hostile("objects nested 20,000 deep", _any(b"\x76\1\1k" * 20_000 + b"\x7e")),
    Hostile("arrays nested one too deep", _any(b"\x75\1" * 65 + b"\x7e")),
    Hostile("JSON nested 100,000 deep", _json("[" * 100_000 + "]" * 100_000)),
    Hostile("JSON nested one too deep", _json("[" * 65 + "]" * 65)),
    Hostile("a number of a megabyte", b"\1\1" + b"\xff" * 1_000_000),
    Hostile("a number of 200 bytes", b"\1\1" + b"\xff" * 200),
    Hostile("an integer of a megabyte", _any(b"\x7d" + b"\xff" * 1_000_000)),
    Hostile("claims 2^29 clients", write_var_uint(2**29)),
    Hostile("claims 2^29 structs", b"\1" + write_var_uint(2**29) + b"\1\0"),
    Hostile("claims 2^29 values", _update(b"\10" + _ROOT + write_var_uint(2**29))),
    Hostile("claims an array of 2^29", _any(b"\x75" + write_var_uint(2**29))),
    Hostile("claims 2^29 deleted clients", b"\0" + write_var_uint(2**29)),
    Hostile("claims 2^29 deleted ranges", b"\0\1\1" + write_var_uint(2**29)),
    Hostile("claims a text of 2^60 bytes", _update(b"\4" + _ROOT + write_var_uint(2**60))),
    Hostile("more values than the limit", _update(b"\10" + _ROOT + write_var_uint(4_000_001) + b"\x7e" * 4_000_001)),
    Hostile("empty", b""),
    Hostile("one byte", b"\0"),
    Hostile("bytes after the end", b"\0\0\0"),
    Hostile("V2, empty", bytes.fromhex("00000000000001000000000000")),
    Hostile(
        "V2, a text",
        bytes.fromhex("0000059db3deab150000010417147465787468656c6c6f20f09f988020776f726c64040e0101000001010000"),
    ),
    Hostile("client over 53 bits", _update(b"\4" + _ROOT + b"\1a", client=2**53)),
    Hostile("client of 64 bits", _update(b"\4" + _ROOT + b"\1a", client=2**64 - 1)),
    Hostile("clock runs over", _update(b"\4" + _ROOT + b"\2ab", clock=2**31 - 2)),
    Hostile("GC runs over", _update(b"\0" + write_var_uint(2**31 - 1), clock=1)),
    Hostile("hole runs over", _update(b"\12" + write_var_uint(2**31 - 1) + b"\0\1", count=2, clock=1)),
    Hostile("a client twice", b"\2" + (b"\1\1\0\4" + _ROOT + b"\1a") * 2 + b"\0"),
    Hostile("a deleting client twice", b"\0\2\1\1\0\1\1\1\1\1"),
    Hostile("a client without structs", b"\1\0\1\0\0"),
    Hostile("an empty text", _update(b"\4" + _ROOT + b"\0")),
    Hostile("an empty GC", _update(b"\0\0")),
    Hostile("an empty hole", _update(b"\12\0\0\1", count=2)),
    Hostile("no values", _update(b"\10" + _ROOT + b"\0")),
    Hostile("an empty deleted range", b"\0\1\1\1\0\0"),
    Hostile("a deleted range that runs over", b"\0\1\1\1\1" + write_var_uint(2**31 - 1)),
    Hostile("overlong clock", bytes.fromhex("0101018000040101740161") + b"\0"),
    Hostile("refers to itself", _update(b"\x84\1\5\1a", clock=5)),
    Hostile("refers to its own future", _update(b"\x44\1\7\1a", clock=5)),
    Hostile("is its own parent", _update(b"\7\0\1\0\1")),
    Hostile("refers to clock 2^31-1", _update(b"\x84\2" + write_var_uint(2**31 - 1) + b"\1a")),
    Hostile("JSON content", _update(b"\2" + _ROOT + b"\1\1" + b"1")),
    Hostile("parent of kind 2", _update(b"\4\2\1a\1a")),
    Hostile("a weak link", _update(b"\7" + _ROOT + b"\7\0\1\0")),
    Hostile("an XML hook as Yjs writes it", _update(b"\7" + _ROOT + b"\5\1h")),
    Hostile("an XML hook as Yrs reads it", _update(b"\7" + _ROOT + b"\5")),
    *(Hostile(f"type {kind}", _update(b"\7" + _ROOT + bytes((kind,)))) for kind in (8, 9, 10, 15, 16, 127, 128, 255)),
    *(Hostile(f"content {ref}", _update(bytes((ref,)) + _ROOT + b"\1\1a")) for ref in (11, 12, 15, 16, 17, 20, 31)),
    Hostile("GC with flags", _update(b"\x20\1")),
    Hostile("hole with flags", _update(b"\x2a\1")),
    *(Hostile(f"value {tag}", _any(bytes((tag,)) + b"\0" * 8)) for tag in (0, 31, 115, 128, 255)),
    Hostile("an integer over 53 bits", _any(b"\x7d\xbf" + b"\xff" * 6 + b"\x7f")),
    Hostile("a key that is not UTF-8", _any(b"\x76\1\1\xff\x7e")),
    Hostile("half a surrogate pair as UTF-8", _update(b"\4" + _ROOT + _text(b"\xed\xa0\xbd"))),
    *(
        Hostile(f"JSON {text[:20]!r}", _json(text))
        for text in (
            *("", "nope", "NaN", "-Infinity", "undefined", "1e999", "01", "1.", "-", "0x1", "[1,]", "{a:1}", '"\t"'),
            *('"\\ud800"', '"\\udc00\\ud800"', '{"\\ud800":1}', "\u00a01", "\ufeff1", "9" * 5_000),
            *("9223372036854775808", "18446744073709551615"),
        )
    ),
    Hostile("JSON that is not UTF-8", _json(b'"\xff"')),
    # Well-formed and senseless.
    Hostile("two clients wait for each other", bytes.fromhex("020102008401000162010100840200016200"), refused=False),
    Hostile("two clients hold each other", bytes.fromhex("020102000700010001010100070002000100"), refused=False),
    Hostile("only a hole", _update(b"\12\5"), refused=False),
    Hostile("ends with a hole", _update(b"\4" + _ROOT + b"\1a\12\5", count=2), refused=False),
    Hostile("a text as parent", _update(b"\4" + _ROOT + b"\1a\4\0\1\0\1b", count=2), refused=False),
    Hostile("as deep as may be", _any(b"\x75\1" * 64 + b"\x7e"), refused=False),
    Hostile("JSON as deep as may be", _json("[" * 64 + "]" * 64), refused=False),
    Hostile("the last clock", _update(b"\4" + _ROOT + b"\1a", clock=2**31 - 3), refused=False),
    Hostile("the last client", _update(b"\4" + _ROOT + b"\1a", client=2**53 - 1), refused=False),
)

STATE_VECTORS: Final = (
    Hostile("claims 2^29 clients", write_var_uint(2**29)),
    Hostile("claims 2^28 clients", bytes.fromhex("8080808001")),
    Hostile("claims 2^29 clients before a few bytes", write_var_uint(2**29) + b"\1\1\2"),
    Hostile("empty", b""),
    Hostile("a client twice", b"\2\1\1\1\2"),
    Hostile("bytes after the end", b"\1\1\1\0"),
    Hostile("ends too early", b"\2\1\1\2"),
    Hostile("clock of 32 bits", b"\1\1" + write_var_uint(2**31)),
    Hostile("client over 53 bits", b"\1" + write_var_uint(2**53) + b"\1"),
    Hostile("a number of a megabyte", b"\1" + b"\xff" * 1_000_000),
    Hostile(
        "more clients than the limit",
        write_var_uint(100_001) + b"".join(write_var_uint(client) + b"\1" for client in range(100_001)),
    ),
)

AWARENESS: Final = (
    Hostile(
        "100,000 entries", write_var_uint(100_000) + b"".join(write_var_uint(c) + b"\1\2{}" for c in range(100_000))
    ),
    Hostile("claims 2^29 entries", write_var_uint(2**29)),
    Hostile("a state of a megabyte", b"\1\1\1" + _text('"' + "x" * 1_000_000 + '"')),
    Hostile("no JSON", b"\1\1\1" + _text("{")),
    Hostile("NaN", b"\1\1\1" + _text("NaN")),
    Hostile("nested 30,000 deep", b"\1\1\1" + _text("[" * 30_000 + "]" * 30_000)),
    Hostile("not UTF-8", b"\1\1\1" + _text(b'"\xff"')),
    Hostile("ends too early", b"\1\1\1\5{}"),
    Hostile("bytes after the end", b"\1\1\1\2{}\0"),
    Hostile("empty", b""),
    Hostile("client over 53 bits", b"\1" + write_var_uint(2**53) + b"\1\2{}"),
)


def astral_base() -> bytes:
    """A document of client 1: a text with characters of two units, a map, an array with nested types."""
    doc: Doc[Any] = Doc(client_id=1)
    text = doc.get("text", type=Text)
    for _ in range(4):
        text += "hello \N{GRINNING FACE} wo"
    doc.get("map", type=Map)["h"] = [1, {"k": None}]
    doc.get("array", type=Array).extend([1, Map({"k": 1.0}), Text("t")])
    return doc.get_update()


def show_to_pycrdt(lines: Iterable[str], timeout_s: float) -> list[tuple[str, str]]:
    """(line, verdict) of every `try`: refused, survived, raised …; `panic …` and `killed …` are pycrdt's death."""
    waiting = list(lines)
    verdicts: list[tuple[str, str]] = []
    root = Path(__file__).resolve().parents[2]
    base = [line for line in waiting[:1] if line.startswith("base ")]
    while waiting:
        child = subprocess.run(
            [sys.executable, __file__],
            input="\n".join(waiting) + "\n",
            env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        tried = [at for at, line in enumerate(waiting) if line.startswith("try ")]
        answers = child.stdout.splitlines()
        verdicts += [(waiting[at], answer) for at, answer in zip(tried, answers, strict=False)]
        if child.returncode == 0:
            assert len(answers) == len(tried)
            return verdicts
        killer = tried[len(answers)]
        verdicts.append((waiting[killer], f"killed {child.returncode}: {child.stderr[-300:]}"))
        base = [line for line in waiting[:killer] if line.startswith("base ")][-1:] or base
        waiting = [*base, *waiting[killer + 1 :]]
        if waiting == base:
            break
    return verdicts


def _read(doc: Doc[Any]) -> None:
    """Look at it as an application would; but for arrays, see `tests.sync.test_validate.ARRAY_THAT_HANGS`."""
    str(doc.get("text", type=Text))
    doc.get("text", type=Text).diff()
    doc.get("map", type=Map).to_py()
    str(doc.get("xml", type=XmlFragment))


def _live_with(update: bytes, base: bytes) -> None:
    """Everything that the engine does with an update: apply, read, encode, merge, load again, pass on twice."""
    doc: Doc[Any] = Doc(client_id=91)
    if base:
        doc.apply_update(base)
    doc.apply_update(update)
    get_state(update)
    merged = merge_updates(base or b"\0\0", update)
    merge_updates(update, update)
    _read(doc)
    Snapshot.from_doc(doc).encode()
    peer: Doc[Any] = Doc(client_id=92)
    peer.apply_update(doc.get_update(peer.get_state()))
    third: Doc[Any] = Doc(client_id=93)
    third.apply_update(peer.get_update(third.get_state()))
    _read(third)
    peer.get("text", type=Text).insert(0, "x")
    doc.apply_update(peer.get_update(doc.get_state()))
    fourth: Doc[Any] = Doc(client_id=94)
    fourth.apply_update(merged)
    _read(fourth)


def _verdict(update: bytes, base: bytes) -> str:
    try:
        check_update(update)
    except InvalidUpdate:
        return "refused"
    steps: tuple[Callable[[], None], ...] = (lambda: _live_with(update, b""), lambda: _live_with(update, base))
    for step in steps:
        try:
            step()
        except Exception as error:
            return f"raised {type(error).__name__}: {' '.join(str(error).split())[:120]}"
        except BaseException as error:  # pyo3's PanicException
            return f"panic {' '.join(str(error).split())[:120]}"
    return "survived"


def main() -> None:
    base = b""
    for line in sys.stdin:
        word, _, data = line.strip().partition(" ")
        if word == "base":
            base = bytes.fromhex(data)
        else:
            signal.alarm(TRY_S_MAX)  # its default action ends the process, also where Rust holds the GIL for ever
            print(_verdict(bytes.fromhex(data), base), flush=True)


if __name__ == "__main__":
    main()
