"""Plain GET on the edge's port: health, status, and documents as JSON.

Room: reading only. Nothing here changes anything.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from urllib.parse import SplitResult, parse_qs, unquote

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from sync.errors import InvalidDocumentId, InvalidInput, NotYet, SkerryError
from sync.ids import parse_document_id
from sync.limits import WAIT_MS_MAX

from . import reads, status
from .admission import Admission, target_of, token_of
from .auth import Grant, TokenRefused
from .edge import EdgeDaemon

__all__ = ["answer", "reading_json", "refused"]

_DOCS = "/docs/"
_WHAT = "GET /healthz, /status, /docs, /docs/<document id>; a document is edited over a websocket at /<document id>"


async def answer(daemon: EdgeDaemon, request: Request, admission: Admission) -> Response:
    """Answer a GET; anything wrong is JSON `{"error": …}` with a fitting status."""
    url = target_of(request.path)
    if url.path == "/healthz":  # for whoever keeps processes alive: no token, and no secret
        return _json(HTTPStatus.OK, {"ok": True, "role": "edge", "name": daemon.config.name})
    foreign = admission.refusal(request.headers)
    if foreign is not None:
        return refused(foreign.status, foreign.reason)
    try:
        grant = admission.grant(token_of(request.path, request.headers))
    except TokenRefused as error:
        response = refused(HTTPStatus.UNAUTHORIZED, str(error))
        response.headers["WWW-Authenticate"] = "Bearer"
    else:
        response = await _answer(daemon, url, request, grant)
    if "Origin" in request.headers:  # a page that may ask may also read the answer
        response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
        response.headers["Vary"] = "Origin"
    return response


def refused(status: HTTPStatus, reason: str) -> Response:
    return _json(status, {"error": reason})


async def _answer(daemon: EdgeDaemon, url: SplitResult, request: Request, grant: Grant) -> Response:
    """For whom this grant is; what it does not hold does not exist for its bearer."""
    try:
        if url.path == "/status":
            found = status.edge_status(daemon, grant.may_read)
            return _json(HTTPStatus.OK, found)
        if url.path == "/docs":
            return _json(HTTPStatus.OK, {"docs": [doc for doc in await daemon.documents() if grant.may_read(doc)]})
        if url.path.startswith(_DOCS):
            known = request.headers.get("If-None-Match", "")
            return await _document(daemon, grant, url.path.removeprefix(_DOCS), parse_qs(url.query), known)
    except InvalidInput as error:
        return _json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
    except SkerryError as error:
        return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)})
    return _json(HTTPStatus.NOT_FOUND, {"error": f"nothing is at {url.path}; there is {_WHAT}"})


async def _document(daemon: EdgeDaemon, grant: Grant, path: str, query: dict[str, list[str]], known: str) -> Response:
    try:
        doc = parse_document_id(unquote(path, errors="strict"))
    except UnicodeDecodeError:
        raise InvalidDocumentId("document id: not UTF-8 behind percent-decoding; encode it as UTF-8") from None
    if not grant.may_read(doc):
        return refused(HTTPStatus.FORBIDDEN, "this token does not grant this document; ask for one that does")
    if "at_least" in query:
        seconds = _seconds(query.get("timeout", ["10"])[0])
        reached, have = await reads.wait_for(daemon, doc, query["at_least"][0], int(seconds * 1000))
        if not reached:
            want = query["at_least"][0]
            return _json(
                HTTPStatus.GATEWAY_TIMEOUT, {"error": str(NotYet(doc, have, want)), "have": have, "want": want}
            )
    reading = await reads.read(daemon, doc, contents="digest" not in query)
    if reading is None and daemon.bus.state.state == "up":
        await reads.fetch(daemon, doc)
        reading = await reads.read(daemon, doc, contents="digest" not in query)
    if reading is None:
        return _json(HTTPStatus.NOT_FOUND, {"error": f"{doc}: this edge has no such document; ask another edge"})
    # With an outbox the document is more than its version says: no tag, and no "not modified" either.
    tag = f'"{reading.version}"' if reading.version is not None and not reading.outbox_count else ""
    if tag and tag in [each.strip().removeprefix("W/") for each in known.split(",")]:
        return _json(HTTPStatus.NOT_MODIFIED, {}, tag)
    return _json(HTTPStatus.OK, reading_json(reading), tag)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= WAIT_MS_MAX / 1000:
        raise InvalidInput(f"timeout: {text!r} is no number of seconds from 0 to {WAIT_MS_MAX // 1000}")
    return seconds


def reading_json(reading: reads.Reading) -> dict[str, object]:
    found: dict[str, object] = {
        "doc": reading.doc,
        "version": str(reading.version) if reading.version is not None else None,
        "digest": reading.digest,
        "outbox": reading.outbox_count,
    }
    if reading.contents is not None:
        found["content"] = reading.contents
    return found


def _json(code: HTTPStatus, body: dict[str, object], tag: str = "") -> Response:
    data = (
        b""
        if code is HTTPStatus.NOT_MODIFIED
        else json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    )
    headers = Headers(
        [
            ("Content-Type", "application/json; charset=utf-8"),
            ("Content-Length", str(len(data))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Connection", "close"),
        ]
    )
    if tag:
        headers["ETag"] = tag
    return Response(code.value, code.phrase, headers, data)
