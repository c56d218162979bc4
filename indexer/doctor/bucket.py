"""What only a bucket has: checksums, credentials, pages of a listing, unfinished uploads, a clock of its own.

These calls no release makes, so they are made here and not by the store.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import ClientError

from indexer.doctor.findings import Finding, failed, passed, warned
from indexer.errors import IntegrityError
from indexer.store import S3Store, SingleWriterStore
from indexer.store.s3 import CONNECT_SECONDS, READ_SECONDS, store_errors

BROKEN = IntegrityError.exit_code
PAGE = 3
SKEW_SECONDS = 300


def open_client(*, secret: str | None = None) -> Any:
    """Return a client of the standard chain that sends a request once; `secret` takes the place of the right one."""
    from boto3.session import Session
    from botocore.config import Config as ClientConfig

    once = {"mode": "standard", "total_max_attempts": 1}
    options = ClientConfig(retries=once, connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS)
    session = Session()
    known = session.get_credentials()
    if secret is None or known is None:
        return session.client("s3", config=options)
    frozen = known.get_frozen_credentials()
    return session.client(
        "s3",
        config=options,
        aws_access_key_id=frozen.access_key,
        aws_secret_access_key=secret,
        aws_session_token=frozen.token,
    )


def check_checksum(client: Any, store: S3Store, prefix: str) -> Finding:
    """Send bodies with the checksum of other bytes; each must be refused."""
    right = b"what was meant"
    sums = {
        "Content-MD5": ("ContentMD5", hashlib.md5(right, usedforsecurity=False).digest()),
        "x-amz-checksum-sha256": ("ChecksumSHA256", hashlib.sha256(right).digest()),
    }
    accepted = []
    with store_errors(store.url, "checksum"):
        for name, (option, digest) in sums.items():
            given = {option: base64.b64encode(digest).decode()}
            try:
                # New, as a bucket's policy may ask of every object.
                condition = {} if isinstance(store, SingleWriterStore) else {"IfNoneMatch": "*"}
                place = {"Bucket": store.bucket, "Key": f"{store.prefix}{prefix}checksum/{option}", **condition}
                client.put_object(Body=b"what arrived  ", **place, **given)
                accepted.append(name)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 400:
                    raise
    if len(accepted) == len(sums):
        advice = "publish to another store: what breaks on the way would only be found by consumers"
        return failed("", "a body with the checksum of other bytes is accepted", advice, BROKEN)
    if accepted:
        return warned(
            "",
            f"a wrong {accepted[0]} is not noticed",
            "update the store; until then only readers find what breaks on the way, by SHA-256",
        )
    return passed("", "a body with the checksum of other bytes is refused")


def check_secret(_: Any, store: S3Store, prefix: str) -> Finding:
    """Ask with a wrong secret."""
    with store_errors(store.url, "secret"):
        try:
            open_client(secret="wrong").list_objects_v2(Bucket=store.bucket, Prefix=store.prefix + prefix, MaxKeys=1)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (401, 403):
                raise
            return passed("", "a wrong secret is refused")
    return failed("", "a wrong secret is accepted", "turn on the store's authentication", BROKEN)


def check_pages(client: Any, store: S3Store, prefix: str) -> Finding:
    """List by small pages, and compare with a listing by large ones."""
    with store_errors(store.url, prefix):
        pages = client.get_paginator("list_objects_v2")
        options = {"Bucket": store.bucket, "Prefix": store.prefix + prefix}
        small, large = (
            [item["Key"] for page in pages.paginate(**options, **size) for item in page.get("Contents", ())]
            for size in ({"PaginationConfig": {"PageSize": PAGE}}, {})
        )
    if small != large:
        found = f"{len(small)} keys by pages of {PAGE}, {len(large)} by full ones"
        return failed("", found, "publish to another store: it hides objects from a listing", BROKEN)
    return passed("", f"{len(small)} keys by pages of {PAGE} as by full ones")


def check_unfinished(client: Any, store: S3Store, prefix: str) -> Finding:
    """Begin an upload in parts and give it up; nobody may see it."""
    key, seen = store.prefix + prefix + "unfinished", []
    with store_errors(store.url, "unfinished"):
        upload = client.create_multipart_upload(Bucket=store.bucket, Key=key)["UploadId"]
        place = {"Bucket": store.bucket, "Key": key, "UploadId": upload}
        try:
            client.upload_part(**place, PartNumber=1, Body=b"part of an object")
            seen.append(_is_seen(client, store.bucket, key))
        finally:
            client.abort_multipart_upload(**place)
        seen.append(_is_seen(client, store.bucket, key))
    if any(seen):
        return failed("", "an unfinished upload is seen as an object", "publish to another store", BROKEN)
    return passed("", "an unfinished upload is seen by nobody")


def check_clock(client: Any, store: S3Store, prefix: str) -> Finding:
    """Compare the clocks; no decision depends on them but how long garbage is kept."""
    with store_errors(store.url, prefix):
        answer = client.list_objects_v2(Bucket=store.bucket, Prefix=store.prefix + prefix, MaxKeys=1)
    text = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if text is None:
        return warned("", "the store tells no time", "see that its clock is right")
    skew = (datetime.now(UTC) - parsedate_to_datetime(text)).total_seconds()
    if abs(skew) > SKEW_SECONDS:
        return warned("", f"{skew:+.0f} s from the store's", "set the clock of this machine, or the store's")
    return passed("", "within 5 minutes of the store's")


def _is_seen(client: Any, bucket: str, key: str) -> bool:
    listed = client.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", ())
    with suppress(ClientError):
        client.head_object(Bucket=bucket, Key=key)
        return True
    return bool(listed)


BUCKET_CHECKS: Mapping[str, Callable[[Any, S3Store, str], Finding]] = {
    "pages": check_pages,
    "checksum": check_checksum,
    "secret": check_secret,
    "unfinished upload": check_unfinished,
    "clock": check_clock,
}
