"""ONNX files: their messages are walked by this module before ONNX Runtime parses any of them.

Accepted are graphs of standard operators whose weights lie in the file. Refused are weights elsewhere, operators of
other domains, functions and training steps, fields that are not known here, and what is nested too deeply. Weights
themselves are passed over, so the walk takes milliseconds whatever the size of the file.
"""

from typing import NamedTuple, NoReturn

from indexer.errors import EncoderError

MAX_MODEL_BYTES = (2 << 30) - 1
"""What a protobuf message can hold."""
MAX_FIELDS = 400_000
"""Fields that are walked; a transformer of 12 layers has some 20,000."""
MAX_DEPTH = 24
"""Messages within each other; a graph within a graph adds three."""
DOMAINS = (b"", b"ai.onnx", b"com.microsoft")
"""Sets of operators; the last one is what ONNX Runtime's own quantisation and fusions write."""
REFUSED_OPERATORS = (b"EPContext",)
"""Those of the domains that open further files."""

NUMBER, FIXED8, BYTES, FIXED4 = 0, 1, 2, 5
"""Wire types of protobuf; groups, 3 and 4, stand in no ONNX file."""
_LIST = (NUMBER, BYTES)
"""Repeated numbers, each alone or packed."""
_FLOATS = (FIXED4, BYTES)
_DOUBLES = (FIXED8, BYTES)

Field = str | int | tuple[int, ...]
MESSAGES: dict[str, dict[int, Field]] = {
    "model": {1: NUMBER, 2: BYTES, 3: BYTES, 4: BYTES, 5: NUMBER, 6: BYTES, 7: "graph", 8: BYTES, 14: BYTES},
    "graph": {
        **{1: "node", 2: BYTES, 5: "tensor", 15: "sparse tensor"},
        **dict.fromkeys((10, 11, 12, 13, 14, 16), BYTES),
    },
    "node": {**dict.fromkeys((1, 2, 3, 4, 6, 7, 9), BYTES), 5: "attribute"},
    "attribute": {
        **{1: BYTES, 2: FIXED4, 3: NUMBER, 4: BYTES, 5: "tensor", 6: "graph", 7: _FLOATS, 8: _LIST, 9: BYTES},
        **{10: "tensor", 11: "graph", 13: BYTES, 14: BYTES, 15: BYTES, 20: NUMBER, 21: BYTES},
        **{22: "sparse tensor", 23: "sparse tensor"},
    },
    "tensor": {
        **{1: _LIST, 2: NUMBER, 4: _FLOATS, 5: _LIST, 6: BYTES, 7: _LIST, 8: BYTES, 9: BYTES, 10: _DOUBLES},
        **{11: _LIST, 12: BYTES, 14: NUMBER, 16: BYTES},
    },
    "sparse tensor": {1: "tensor", 2: "tensor", 3: _LIST},
}
"""Message -> number of a field -> its wire type, or the message it holds."""
NAMED = {
    ("model", 20): "training steps",
    ("model", 25): "functions of its own",
    ("tensor", 3): "weights in segments",
    ("tensor", 13): "weights outside the file (external data)",
}
"""Fields that are known and refused."""


class _Found(NamedTuple):
    """A field on the wire."""

    number: int
    kind: int
    value: int
    """The number, or where the bytes begin."""
    end: int


class _Walk:
    def __init__(self, data: bytes, place: str) -> None:
        self.data = data
        self.place = place
        self.left = MAX_FIELDS

    def visit(self, message: str, start: int, end: int, depth: int) -> None:
        """Look at every field of a message and at the messages within it."""
        if depth > MAX_DEPTH:
            self.refuse("is nested too deeply")
        known = MESSAGES[message]
        while start < end:
            found = self.read_field(start, end)
            start = found.end
            expected = known.get(found.number)
            if expected is None:
                self.refuse(f"has {NAMED.get((message, found.number), f'field {found.number} in a {message}')}")
            if isinstance(expected, str):
                self.expect_kind(found, (BYTES,), message)
                self.visit(expected, found.value, found.end, depth + 1)
            else:
                self.expect_kind(found, expected if isinstance(expected, tuple) else (expected,), message)
                self.check_value(message, found)

    def check_value(self, message: str, found: _Found) -> None:
        """Look at the few fields whose values decide what is opened."""
        if message == "node" and found.number == 7 and self.text(found) not in DOMAINS:
            self.refuse(f"has an operator of the domain {self.text(found).decode('utf-8', 'replace')[:80]!r}")
        if message == "node" and found.number == 4 and self.text(found) in REFUSED_OPERATORS:
            self.refuse(f"has the operator {self.text(found).decode()}, which opens further files")
        if message == "tensor" and found.number == 14 and found.value != 0:
            self.refuse(f"has {NAMED['tensor', 13]}")

    def expect_kind(self, found: _Found, kinds: tuple[int, ...], message: str) -> None:
        if found.kind not in kinds:
            self.refuse(f"has wire type {found.kind} in field {found.number} of a {message}")

    def read_field(self, start: int, end: int) -> _Found:
        self.left -= 1
        if self.left < 0:
            self.refuse(f"has more than {MAX_FIELDS} fields")
        tag, start = self.read_number(start, end)
        kind = tag & 7
        if kind == NUMBER:
            value, stop = self.read_number(start, end)
            return _Found(tag >> 3, kind, value, stop)
        if kind == BYTES:
            length, start = self.read_number(start, end)
        elif kind in (FIXED4, FIXED8):
            length = 4 if kind == FIXED4 else 8
        else:
            self.refuse(f"has wire type {kind}")
        if length > end - start:
            self.refuse("is cut within a field")
        return _Found(tag >> 3, kind, start, start + length)

    def read_number(self, start: int, end: int) -> tuple[int, int]:
        value = 0
        for place in range(10):
            if start + place >= end:
                self.refuse("is cut within a number")
            byte = self.data[start + place]
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                return value, start + place + 1
        self.refuse("has a number of more than 10 bytes")

    def text(self, found: _Found) -> bytes:
        return self.data[found.value : found.end]

    def refuse(self, problem: str) -> NoReturn:
        raise EncoderError(f"{self.place}: the model {problem}; it was not opened, export the encoder again")


def check_model(data: bytes, place: str) -> None:
    """Raise EncoderError unless the bytes are an ONNX model that needs nothing but itself and standard operators."""
    walk = _Walk(data, place)
    if not data or len(data) > MAX_MODEL_BYTES:
        walk.refuse(f"has {len(data)} bytes, expected 1 to {MAX_MODEL_BYTES}")
    walk.visit("model", 0, len(data), 0)
