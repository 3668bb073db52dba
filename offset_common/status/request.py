"""HTTP requests and answers as bytes, without sockets: what the status server needs of HTTP/1.1, and no more.

The head of a request is parsed by http.server of the standard library.

Source: RFC 9112.
"""

from __future__ import annotations

import io
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import NamedTuple, Optional
from urllib.parse import parse_qsl, urlsplit

MAX_HEAD_SIZE = 8192  # bytes of request line and headers
MAX_FIELDS = 20  # of a query
TEXT = "text/plain; charset=utf-8"
METHODS = ("GET", "HEAD")


class RequestError(Exception):
    """A request that is answered with an error.

    Args:
        status: the status code.
        reason: one sentence about what to do.
    """

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Request(NamedTuple):
    """A parsed request.

    Args:
        method: GET or HEAD.
        path: the path, without the query.
        query: the fields of the query; of several with one name, the last counts.
        host: the Host header, empty if there is none.
    """

    method: str
    path: str
    query: dict[str, str]
    host: str = ""


class Answer(NamedTuple):
    """An answer.

    Args:
        status: the status code.
        content_type: the type of the body.
        body: the body.
        headers: additional headers.
    """

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()

    def encode(self, with_body: bool = True) -> bytes:
        """Return the answer as bytes."""
        headers = (
            ("Content-Type", self.content_type),
            ("Content-Length", str(len(self.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Connection", "close"),
            *self.headers,
        )
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}", *(f"{a}: {b}" for a, b in headers)]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return head + self.body if with_body else head


def sentence(status: HTTPStatus, text: str, *headers: tuple[str, str]) -> Answer:
    """Return an answer that is one line of text."""
    return Answer(status, TEXT, f"{text}\n".encode(), headers)


def error_answer(error: RequestError) -> Answer:
    """Return the answer to a request that cannot be served."""
    allowed = (("Allow", ", ".join(METHODS)),) if error.status is HTTPStatus.METHOD_NOT_ALLOWED else ()
    return sentence(error.status, error.reason, *allowed)


def head_size(data: bytes) -> int:
    """Return the size of a request's head, with the empty line at its end; 0 if it is not complete.

    Raises:
        RequestError: it is too long, or does not look like HTTP at all.
    """
    end = 0
    for mark in (b"\r\n\r\n", b"\n\n"):  # "a recipient MAY recognize a single LF as a line terminator"
        found = data.find(mark)
        if found >= 0:
            end = min(end or found + len(mark), found + len(mark))
    if (end or len(data)) > MAX_HEAD_SIZE:
        raise RequestError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"the request line and headers are over {MAX_HEAD_SIZE} bytes; send fewer",
        )
    if data[:1] == b"\x16":
        raise RequestError(HTTPStatus.BAD_REQUEST, "this is plain HTTP, not TLS; use an address with http://")
    if data and not (data[:1].isalpha() or data[:1] in b"\r\n"):
        raise RequestError(HTTPStatus.BAD_REQUEST, "this is not an HTTP request")
    return end


def parse_head(data: bytes) -> Request:
    """Return the request with a complete head.

    Raises:
        RequestError: it is malformed, or asks for something that is not supported.
    """
    parsed = _Parser(data)
    if parsed.problem is not None:
        raise parsed.problem
    if parsed.request_version in ("HTTP/0.9", ""):
        raise RequestError(HTTPStatus.BAD_REQUEST, "the request line is not METHOD PATH HTTP/1.1")
    if parsed.command not in METHODS:
        raise RequestError(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are possible here")
    try:
        parts = urlsplit(parsed.path)
        query = dict(
            parse_qsl(parts.query, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
        )
    except ValueError:
        raise RequestError(HTTPStatus.BAD_REQUEST, "the path or its query is malformed") from None
    return Request(parsed.command, parts.path, query, str(parsed.headers.get("Host", "")))


class _Parser(BaseHTTPRequestHandler):
    """The parser of the standard library, without its sockets."""

    headers: Message
    command = path = request_version = ""

    def __init__(self, data: bytes) -> None:
        self.problem: Optional[RequestError] = None
        data = data.lstrip(b"\r\n")  # "a server ... SHOULD ignore at least one empty line" before the request
        self.rfile = io.BytesIO(data)
        self.raw_requestline = self.rfile.readline()
        self.close_connection = True
        if not self.parse_request() and self.problem is None:
            self.problem = RequestError(HTTPStatus.BAD_REQUEST, "the request line is empty")

    def send_error(self, code: int, message: Optional[str] = None, explain: Optional[str] = None) -> None:
        """Keep the problem; its text may quote the request, so it is cut and made printable."""
        text = message or "the request is malformed"
        shown = "".join(each if each.isprintable() else "?" for each in text[:100])
        self.problem = RequestError(HTTPStatus(code), shown[:1].lower() + shown[1:])

    def handle_expect_100(self) -> bool:
        """Send nothing: a body is never asked for."""
        return True
