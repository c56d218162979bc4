"""An S3 server on loopback that is stricter than a double: it checks signatures and checksums, and fails on request.

boto3 talks to it over HTTP as to any endpoint. Objects live in memory. `Faults` makes chosen requests fail, `defects`
turns one rule off, so that a program that relies on the rule can be seen to notice.
"""

import base64
import binascii
import hashlib
import hmac
import threading
import time
import urllib.parse
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import ThreadingHTTPServer
from typing import NamedTuple
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.proof.s3_faults import Answer, Faults, FaultyHandler, Refusal, Request

BUCKET, ACCESS_KEY, SECRET_KEY, REGION = "bucket", "strict-access", "strict-secret", "us-east-1"
CHECKSUMS: Mapping[str, Callable[[bytes], bytes]] = {
    "content-md5": lambda data: hashlib.md5(data).digest(),
    "x-amz-checksum-sha256": lambda data: hashlib.sha256(data).digest(),
    "x-amz-checksum-sha1": lambda data: hashlib.sha1(data).digest(),
    "x-amz-checksum-crc32": lambda data: zlib.crc32(data).to_bytes(4),
}
DEFECTS = (
    "overwrites on create",
    "says exists and overwrites",
    "knows no condition",
    "races on create",
    "ignores checksums",
    "accepts any secret",
    "lists one page only",
    "lists out of order",
    "reads late",
    "lists late",
    "lists deleted objects",
    "shows unfinished uploads",
    "loses the last part",
)
LATE_SECONDS = 1.0


class Stored(NamedTuple):
    """An object."""

    data: bytes
    etag: str
    checksums: Mapping[str, str]
    written: float


@dataclass
class StrictS3:
    """The buckets, and what is wrong with them."""

    page: int = 1_000
    least_part: int = 5 << 20
    defects: frozenset[str] = frozenset()
    faults: Faults = field(default_factory=Faults)
    objects: dict[str, Stored] = field(default_factory=dict)
    """`bucket/key` -> object."""
    uploads: dict[str, dict[int, Stored]] = field(default_factory=dict)
    """Unfinished uploads: id -> part -> bytes."""
    buckets: set[str] = field(default_factory=lambda: {BUCKET})
    calls: Counter[str] = field(default_factory=Counter)
    address: str = ""
    _deleted: dict[str, Stored] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def environment(self) -> dict[str, str]:
        """What points the standard AWS chain at this server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.address,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def answer(self, request: Request) -> Answer:
        """Do what a request asks for, or say why not."""
        try:
            self._check_signature(request)
            if request.operation != "CreateBucket" and request.bucket not in self.buckets:
                raise Refusal(404, "NoSuchBucket")
            if "knows no condition" in self.defects and "if-none-match" in request.headers:
                raise Refusal(501, "NotImplemented")
            checksums = {} if "ignores checksums" in self.defects else check_checksums(request)
            # Between the question whether a key is free and the write, a racing store lets others in.
            if "races on create" in self.defects and request.operation == "PutObject":
                self._require_absent(request)
                time.sleep(0.05)
                return self._put(request, checksums)
            with self._lock:
                return getattr(self, _METHODS[request.operation])(request, checksums)
        except Refusal as refusal:
            return refusal.answer()

    def _create_bucket(self, request: Request, _: Mapping[str, str]) -> Answer:
        self.buckets.add(request.bucket)
        return Answer()

    def _create(self, request: Request, checksums: Mapping[str, str]) -> Answer:
        try:
            self._require_absent(request)
        except Refusal:
            if "says exists and overwrites" in self.defects:
                self._put(request, checksums)
            raise
        return self._put(request, checksums)

    def _put(self, request: Request, checksums: Mapping[str, str]) -> Answer:
        stored = _store(request.body, checksums)
        self.objects[_place(request)] = stored
        return Answer(headers={"ETag": stored.etag})

    def _require_absent(self, request: Request) -> None:
        asked = request.headers.get("if-none-match")
        if asked not in (None, "*"):
            raise Refusal(501, "NotImplemented")
        if asked and _place(request) in self.objects and "overwrites on create" not in self.defects:
            raise Refusal(412, "PreconditionFailed")

    def _find(self, request: Request) -> Stored:
        stored = self.objects.get(_place(request))
        if "reads late" in self.defects and stored and time.time() - stored.written < LATE_SECONDS:
            stored = None
        if stored is None:
            raise Refusal(404, "NoSuchKey")
        return stored

    def _get(self, request: Request, _: Mapping[str, str]) -> Answer:
        stored = self._find(request)
        if request.headers.get("if-match", stored.etag) != stored.etag:
            raise Refusal(412, "PreconditionFailed")
        headers = {"ETag": stored.etag, "Last-Modified": _http_time(stored.written), "Accept-Ranges": "bytes"}
        if span := request.headers.get("range"):
            first, last = span.removeprefix("bytes=").split("-")
            start, stop = int(first), min(int(last or len(stored.data)) + 1, len(stored.data))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(stored.data)}"
            return Answer(206, stored.data[start:stop], headers)
        return Answer(200, stored.data, headers | dict(stored.checksums))

    def _delete(self, request: Request, _: Mapping[str, str]) -> Answer:
        if stored := self.objects.pop(_place(request), None):
            self._deleted[_place(request)] = stored
        return Answer(204)

    def _list(self, request: Request, _: Mapping[str, str]) -> Answer:
        root = f"{request.bucket}/"
        found = {place.removeprefix(root): item for place, item in self.objects.items() if place.startswith(root)}
        if "lists late" in self.defects:
            found = {key: item for key, item in found.items() if time.time() - item.written > LATE_SECONDS}
        if "lists deleted objects" in self.defects:
            found |= {place.removeprefix(root): item for place, item in self._deleted.items()}
        if "shows unfinished uploads" in self.defects:
            found |= {self._keys[name]: _store(b"".join(p.data for p in parts.values()), {})
                      for name, parts in self.uploads.items()}  # fmt: skip
        after = request.query.get("continuation-token") or request.query.get("start-after") or ""
        keys = sorted(key for key in found if key.startswith(request.query.get("prefix", "")) and key > after)
        size = min(int(request.query.get("max-keys", 1_000)), self.page)
        page, more = keys[:size], len(keys) > size and "lists one page only" not in self.defects
        if "lists out of order" in self.defects:
            page = page[::-1]
        quote = urllib.parse.quote if request.query.get("encoding-type") == "url" else escape
        items = "".join(
            f"<Contents><Key>{quote(key)}</Key><Size>{len(found[key].data)}</Size><ETag>{found[key].etag}</ETag>"
            f"<LastModified>{datetime.fromtimestamp(found[key].written, UTC):%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
            "</Contents>"
            for key in page
        )
        token = f"<NextContinuationToken>{escape(max(page))}</NextContinuationToken>" if more else ""
        encoding = "<EncodingType>url</EncodingType>" if quote is urllib.parse.quote else ""
        body = (
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated><KeyCount>{len(page)}</KeyCount>"
            f"{encoding}{items}{token}</ListBucketResult>"
        )
        return Answer(200, body.encode(), {"Content-Type": "application/xml"})

    def _start_upload(self, request: Request, _: Mapping[str, str]) -> Answer:
        name = f"upload-{len(self._keys)}"
        self.uploads[name], self._keys[name] = {}, request.key
        body = f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
        return Answer(200, body.encode())

    def _put_part(self, request: Request, checksums: Mapping[str, str]) -> Answer:
        part = self._parts(request)[int(request.query["partNumber"])] = _store(request.body, checksums)
        return Answer(headers={"ETag": part.etag, **checksums})

    def _finish_upload(self, request: Request, _: Mapping[str, str]) -> Answer:
        parts, data = self._parts(request), b""
        self._require_absent(request)
        asked = list(ElementTree.fromstring(request.body))
        for place, item in enumerate(asked):
            fields = {child.tag.rpartition("}")[2]: child.text or "" for child in item}
            part = parts.get(int(fields["PartNumber"]))
            sums = {
                name.removeprefix("x-amz-").replace("-", ""): value for name, value in (part or _NONE).checksums.items()
            }
            given = {name.lower(): value for name, value in fields.items() if name.startswith("Checksum")}
            if part is None or part.etag != fields["ETag"] or any(sums.get(name) != given[name] for name in given):
                raise Refusal(400, "InvalidPart")
            if place < len(asked) - 1 and len(part.data) < self.least_part:
                raise Refusal(400, "EntityTooSmall")
            if not (place and place == len(asked) - 1 and "loses the last part" in self.defects):
                data += part.data
        stored = self.objects[_place(request)] = _store(data, {}, suffix=f"-{len(asked)}")
        del self.uploads[request.query["uploadId"]]
        body = f"<CompleteMultipartUploadResult><ETag>{stored.etag}</ETag></CompleteMultipartUploadResult>"
        return Answer(200, body.encode())

    def _abort_upload(self, request: Request, _: Mapping[str, str]) -> Answer:
        self._parts(request)
        del self.uploads[request.query["uploadId"]]
        return Answer(204)

    def _parts(self, request: Request) -> dict[int, Stored]:
        parts = self.uploads.get(request.query["uploadId"])
        if parts is None or self._keys[request.query["uploadId"]] != request.key:
            raise Refusal(404, "NoSuchUpload")
        return parts

    def _check_signature(self, request: Request) -> None:
        if "accepts any secret" in self.defects:
            return
        fields = dict(
            item.strip().split("=", 1)
            for item in request.headers.get("authorization", "").partition(" ")[2].split(",")
            if "=" in item
        )
        if fields.get("Credential", "").partition("/")[0] != ACCESS_KEY:
            raise Refusal(403, "InvalidAccessKeyId")
        if not hmac.compare_digest(sign(request, fields), fields["Signature"]):
            raise Refusal(403, "SignatureDoesNotMatch")


_METHODS = {
    "CreateBucket": "_create_bucket",
    "PutObject": "_create",
    "GetObject": "_get",
    "HeadObject": "_get",
    "DeleteObject": "_delete",
    "ListObjectsV2": "_list",
    "CreateMultipartUpload": "_start_upload",
    "UploadPart": "_put_part",
    "CompleteMultipartUpload": "_finish_upload",
    "AbortMultipartUpload": "_abort_upload",
}
_NONE = Stored(b"", "", {}, 0)


def sign(request: Request, fields: Mapping[str, str]) -> str:
    """Return the signature (AWS Signature Version 4) that a request with our secret has."""
    names = fields["SignedHeaders"].split(";")
    pairs = sorted(item if "=" in item else f"{item}=" for item in request.raw_query.split("&") if item)
    headers = "".join(f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in names)
    payload = request.headers.get("x-amz-content-sha256", "")
    canonical = "\n".join([request.method, request.path, "&".join(pairs), headers, ";".join(names), payload])
    scope = fields["Credential"].split("/")[1:]
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", request.headers["x-amz-date"], "/".join(scope), digest])
    key = f"AWS4{SECRET_KEY}".encode()
    for part in (*scope, text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key.hex()


def check_checksums(request: Request) -> dict[str, str]:
    """Return the checksums that a body came with, or refuse them."""
    payload = request.headers.get("x-amz-content-sha256", "")
    if len(payload) == 64 and payload != hashlib.sha256(request.body).hexdigest():
        raise Refusal(400, "XAmzContentSHA256Mismatch")
    given = {name: request.headers[name] for name in CHECKSUMS if name in request.headers}
    for name, value in given.items():
        try:
            right = base64.b64decode(value, validate=True) == CHECKSUMS[name](request.body)
        except binascii.Error:
            raise Refusal(400, "InvalidDigest") from None
        if not right:
            raise Refusal(400, "BadDigest")
    return {name: value for name, value in given.items() if name != "content-md5"}


@contextmanager
def serve(server: StrictS3) -> Iterator[StrictS3]:
    """Answer on loopback for the time of the block."""
    listener = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (FaultyHandler,), {"server_state": server}))
    server.address = f"http://127.0.0.1:{listener.server_port}"
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.faults.end()
        listener.shutdown()
        listener.server_close()


def _store(data: bytes, checksums: Mapping[str, str], suffix: str = "") -> Stored:
    return Stored(data, f'"{hashlib.md5(data).hexdigest()}{suffix}"', checksums, time.time())


def _place(request: Request) -> str:
    return f"{request.bucket}/{request.key}"


def _http_time(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)
