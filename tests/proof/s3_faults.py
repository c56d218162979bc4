"""What can go wrong with a request: the handler of the strict server, and the faults it is told to make.

A connection that is refused never reaches a server, so that one fault is made at the client: `refuse_connections`.
"""

import select
import socket
import struct
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple

ERRORS = {
    "expired token": (403, "ExpiredToken"),
    "conflict": (409, "ConditionalRequestConflict"),
    "precondition failed": (412, "PreconditionFailed"),
    "internal error": (500, "InternalError"),
    "slow down": (503, "SlowDown"),
    "error in a 200": (200, "InternalError"),
}
"""Answers of a server that did nothing: status, code."""
FAULTS = ("refused", "reset before", "reset after", "silence", "timeout", "drip", "short", "wrong bytes", *ERRORS)
"""`silence` and `timeout` leave the client without an answer: before the request is done, and after."""
DEAD_PORT = "http://127.0.0.1:9"
DRIP_BYTES, DRIP_SECONDS = 4_096, 0.01


class Answer(NamedTuple):
    """What is sent back."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = {}


class Refusal(Exception):
    """An error answer: status, code."""

    def answer(self) -> Answer:
        """Return it as S3 writes it."""
        status, code = self.args
        body = f"<Error><Code>{code}</Code><Message>the strict server says so</Message></Error>"
        return Answer(status, body.encode(), {"Content-Type": "application/xml"})


@dataclass(frozen=True)
class Request:
    """A request as it arrived; names of headers are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    raw_query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return urllib.parse.unquote(self.path).lstrip("/").partition("/")[0]

    @property
    def key(self) -> str:
        """The object's key; for a listing its prefix."""
        return urllib.parse.unquote(self.path).lstrip("/").partition("/")[2] or self.query.get("prefix", "")

    @property
    def operation(self) -> str:
        """The name that boto3 has for the call."""
        if self.path.count("/") == 1 or self.path.endswith("/"):
            return "CreateBucket" if self.method == "PUT" else "ListObjectsV2"
        if "uploads" in self.query:
            return "CreateMultipartUpload"
        if "uploadId" in self.query:
            return {"PUT": "UploadPart", "POST": "CompleteMultipartUpload"}.get(self.method, "AbortMultipartUpload")
        return f"{self.method.capitalize()}Object"


class Faults:
    """Which of the coming requests fail, and how; every one that was chosen is counted."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        """Key, and part of it, -> requests that were left without an answer, one after the other."""
        self._plan: tuple[str, Callable[[str, str], bool], float] | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def plan(self, fault: str, chosen: Callable[[str, str], bool], times: float) -> None:
        """Let so many of the requests fail of which `chosen` says yes, given operation and key."""
        with self._lock:
            self.made.clear()
            self.held.clear()
            self._plan = (fault, chosen, times)
            self._ended.clear()

    def end(self) -> None:
        """Make no more faults, and wake the requests that are held."""
        with self._lock:
            self._plan = None
        self._ended.set()

    def take(self, operation: str, key: str, *, at_client: bool = False) -> str:
        """Return the fault of a request, or nothing."""
        with self._lock:
            if self._plan is None or (self._plan[0] == "refused") != at_client:
                return ""
            fault, chosen, left = self._plan
            if left <= 0 or not chosen(operation, key):
                return ""
            self._plan = (fault, chosen, left - 1)
            self.made[operation] += 1
            return fault

    def hold(self, connection: socket.socket, address: str) -> None:
        """Leave a client without an answer until it goes away."""
        with self._lock:
            self.held[address] += 1
        while not self._ended.is_set() and not select.select([connection], [], [], 0.02)[0]:
            continue

    def refuse_connections(self, client: Any) -> None:
        """Send the requests of a client that shall be refused to a port where nobody listens."""

        def divert(request: Any, event_name: str, **_: Any) -> None:
            path = urllib.parse.urlsplit(request.url)
            key = urllib.parse.unquote(path.path).lstrip("/").partition("/")[2]
            key = key or urllib.parse.parse_qs(path.query).get("prefix", [""])[0]
            if self.take(event_name.rpartition(".")[2], key, at_client=True):
                request.url = DEAD_PORT + request.url.partition(path.netloc)[2]

        client.meta.events.register("before-send.s3", divert)


class FaultyHandler(BaseHTTPRequestHandler):
    """Hand each request to the server's state, and spoil it where a fault is planned."""

    protocol_version = "HTTP/1.1"
    server_state: Any = None

    def _serve(self) -> None:
        state, request = self.server_state, self._read()
        state.calls[request.operation] += 1
        fault = state.faults.take(request.operation, request.key)
        if fault in ERRORS:
            self._send(Refusal(*ERRORS[fault]).answer(), "")
        elif fault in ("reset before", "silence"):
            if fault == "silence":
                state.faults.hold(self.connection, self.path)
            self._reset()
        else:
            answer: Answer = state.answer(_damage(request) if fault == "wrong bytes" else request)
            if fault == "timeout":
                state.faults.hold(self.connection, self.path)
            if fault in ("timeout", "reset after"):
                self._reset()
            else:
                self._send(answer, "" if fault == "wrong bytes" and request.body else fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def _read(self) -> Request:
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        if "aws-chunked" in headers.get("content-encoding", ""):
            body, trailers = _join_chunks(body)
            headers |= trailers
        values = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        return Request(self.command, path, values, query, headers, body)

    def _send(self, answer: Answer, fault: str) -> None:
        length = str(len(answer.body))
        lines = {"Date": self.date_time_string(), "Content-Length": length, **answer.headers}
        head = f"HTTP/1.1 {answer.status} -\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        body = b"" if self.command == "HEAD" else answer.body
        if fault == "wrong bytes" and body:
            body = flip_bit(body)
        data = (head.replace("HTTP/1.1", "HTTQ") if fault == "wrong bytes" and not body else head).encode()
        data += b"\r\n" + body
        if fault == "short":
            # Without a body, what follows the first line is lost.
            data = data[: -(len(body) // 2)] if len(body) > 1 else data[: data.index(b"\r\n") + 4]
        try:
            if fault == "drip":
                for start in range(0, len(data), DRIP_BYTES):
                    self.wfile.write(data[start : start + DRIP_BYTES])
                    time.sleep(DRIP_SECONDS)
            else:
                self.wfile.write(data)
        except OSError:
            # The client has gone.
            self.close_connection = True
        if fault in ("short", "wrong bytes"):
            self.close_connection = True

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def finish(self) -> None:
        """Close; of a connection that was reset nothing is left to flush."""
        try:
            super().finish()
        except (OSError, ValueError):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Stay silent."""


def flip_bit(data: bytes) -> bytes:
    """Return the bytes with one bit changed in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _damage(request: Request) -> Request:
    return replace(request, body=flip_bit(request.body)) if request.body else request


def _join_chunks(body: bytes) -> tuple[bytes, dict[str, str]]:
    """Return the content of an aws-chunked body and its trailing headers."""
    data = b""
    while True:
        line, _, body = body.partition(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        if not size:
            break
        data, body = data + body[:size], body[size + 2 :]
    lines = [line.decode().partition(":") for line in body.split(b"\r\n") if line]
    return data, {name.strip().lower(): value.strip() for name, _, value in lines}
