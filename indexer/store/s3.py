"""Objects below a prefix of a bucket."""

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from indexer.errors import (
    ConfigError,
    IntegrityError,
    ObjectExistsError,
    ObjectMissingError,
    StoreError,
    StoreRefusedError,
    StoreUnsupportedError,
)
from indexer.store.interface import WHOLE_BYTES, StoredObject, check_key, check_size

Content = TypeVar("Content")
READ_ATTEMPTS = 3
"""What is done once and could not be, may be done so often; a create-only write is never sent again."""
CONNECT_SECONDS = 5
READ_SECONDS = 15
"""An answer, or a part of it, is waited for so long."""
PART_BYTES = 8 << 20
"""Files of this size and more travel in parts."""


class S3Store:
    """Objects below a prefix of a bucket; credentials and endpoint come from the standard AWS chain."""

    conditional: tuple[str, ...] = ("PutObject", "CompleteMultipartUpload")
    """Calls of whole files that say that the object is new."""

    def __init__(self, bucket: str, prefix: str) -> None:
        from boto3.s3.transfer import TransferConfig
        from boto3.session import Session
        from botocore.config import Config as ClientConfig

        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        timeouts = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
        retries = {"mode": "standard", "total_max_attempts": READ_ATTEMPTS}
        with store_errors(self.url, ""):
            session = Session()
            self._client = session.client("s3", config=ClientConfig(retries=retries, **timeouts))
            # Whole files say that they are new, too: a bucket's policy may ask every object for it.
            for request in self.conditional:
                self._client.meta.events.register(f"before-parameter-build.s3.{request}", _say_new)
            # A retried create-only write would meet its own object and read as a lost race.
            once = {"mode": "standard", "total_max_attempts": 1}
            self._once = session.client("s3", config=ClientConfig(retries=once, **timeouts))
        self.endpoint: str = self._client.meta.endpoint_url
        """Address of the service that has the bucket."""
        # Attempts at a download are counted in one place, `_read_whole`.
        self._transfer = TransferConfig(
            multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, num_download_attempts=1
        )

    def get(self, key: str, limit: int = WHOLE_BYTES) -> bytes:
        """Return an object of at most `limit` bytes; raises ObjectMissingError, IntegrityError for a larger one."""

        def read() -> bytes:
            answer = self._once.get_object(Bucket=self.bucket, Key=self._key(key))
            with contextlib.closing(answer["Body"]) as body:
                stated: int | None = answer.get("ContentLength")
                check_size(stated or 0, limit, f"{self.url}: {key}")
                # Some proxies state no length; what states one is read to its end, or is an error.
                data: bytes = body.read(limit + 1 if stated is None else None)
            check_size(len(data), limit, f"{self.url}: {key}")
            return data

        return self._read_whole(key, read)

    def get_file(self, key: str, path: Path) -> None:
        """Download the object to a local file; raises ObjectMissingError."""
        self._read_whole(
            key,
            lambda: self._once.download_file(self.bucket, self._key(key), str(path), Config=self._transfer),
        )

    def put_new(self, key: str, data: bytes) -> None:
        """Create the object by a conditional write; raises ObjectExistsError."""
        with store_errors(self.url, key):
            self._once.put_object(Bucket=self.bucket, Key=self._key(key), Body=data, IfNoneMatch="*")

    def put_file(self, key: str, path: Path) -> None:
        """Upload a file in parts under a key of its own; raises ObjectExistsError where another object is there."""
        try:
            with store_errors(self.url, key):
                extra = {"ChecksumAlgorithm": "SHA256"}
                self._client.upload_file(str(path), self.bucket, self._key(key), ExtraArgs=extra, Config=self._transfer)
        except ObjectExistsError:
            # No other process uses the key: most likely this one sent it, and the answer was lost.
            if self.size(key) != path.stat().st_size:
                raise

    def size(self, key: str) -> int:
        """Return the object's size in bytes; raises ObjectMissingError."""

        def ask() -> int:
            size: int = self._once.head_object(Bucket=self.bucket, Key=self._key(key))["ContentLength"]
            return size

        return self._read_whole(key, ask)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects under the prefix in key order."""
        with store_errors(self.url, prefix):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for item in page.get("Contents", ()):
                    yield StoredObject(item["Key"].removeprefix(self.prefix), item["Size"], item["LastModified"])

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""
        with store_errors(self.url, key):
            self._client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def _read_whole(self, key: str, read: Callable[[], Content]) -> Content:
        """Read up to READ_ATTEMPTS times: boto3 repeats a call that fails, but not one whose answer breaks off."""
        for attempt in range(1, READ_ATTEMPTS + 1):
            try:
                with store_errors(self.url, key):
                    return read()
            except (ObjectMissingError, StoreRefusedError, StoreUnsupportedError):
                raise
            except StoreError:
                if attempt == READ_ATTEMPTS:
                    raise
                time.sleep(random.uniform(0.5, 1.0) * 2**attempt / 4)
        raise AssertionError

    def _key(self, key: str) -> str:
        return self.prefix + check_key(key)


class SingleWriterStore(S3Store):
    """A bucket that knows no conditional writes: whoever writes must be the only one.

    A create asks whether the key is free, writes, and reads back. Two that create at once may both be told of success.
    """

    conditional = ()

    def put_new(self, key: str, data: bytes) -> None:
        """Create the object; raises ObjectExistsError for a key that is taken, or where other bytes are read back."""
        with contextlib.suppress(ObjectMissingError):
            self.size(key)
            raise ObjectExistsError(f"{self.url}: {key}: exists already")
        with store_errors(self.url, key):
            self._once.put_object(Bucket=self.bucket, Key=self._key(key), Body=data)
        with contextlib.suppress(IntegrityError):
            if self.get(key, len(data)) == data:
                return
        raise ObjectExistsError(f"{self.url}: {key}: another process wrote it meanwhile; only one may publish")


def _say_new(params: dict[str, Any], **_: Any) -> None:
    params.setdefault("IfNoneMatch", "*")


@contextlib.contextmanager
def store_errors(url: str, key: str) -> Iterator[None]:
    """Turn boto3's errors into the project's, with the address and what to do; ConfigError for a wrong bucket name."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        ParamValidationError,
        PartialCredentialsError,
    )
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    place = f"{url}: {key}" if key else url
    try:
        yield
    except ClientError as error:
        raise _client_error(error, place) from error
    except (NoCredentialsError, PartialCredentialsError):
        raise StoreRefusedError(
            f"{place}: no AWS credentials found; set a profile, a role or AWS_ACCESS_KEY_ID"
        ) from None
    except ParamValidationError as error:
        # boto3 sends no request to a bucket whose name no service has.
        wrong = str(error.kwargs["report"]).partition(":")[0]
        raise ConfigError(f"{place}: {wrong}; correct the address") from None
    except (BotoCoreError, Boto3Error, ResponseParserError, HTTPError, ValueError, KeyError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, ClientError) else error.__context__
        if isinstance(cause, ClientError):
            raise _client_error(cause, place) from error
        raise StoreError(f"{place}: storage cannot be reached or broke off: {error}; check the endpoint") from error
    except OSError as error:
        raise StoreError(f"{place}: local file: {error.strerror or error}; check the disk") from error


def _client_error(error: Any, place: str) -> StoreError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code == "NoSuchBucket":
        return StoreRefusedError(f"{place}: no such bucket; create it or correct the address")
    if code == "InvalidBucketName":
        return StoreUnsupportedError(f"{place}: the storage has no buckets of such a name; correct the address")
    if code in ("404", "NoSuchKey", "NotFound"):
        return ObjectMissingError(f"{place}: no such object")
    if status == 412 or code in ("412", "PreconditionFailed"):
        return ObjectExistsError(f"{place}: exists already")
    if status in (401, 403) or code in ("ExpiredToken", "InvalidToken", "InvalidAccessKeyId"):
        return StoreRefusedError(f"{place}: access refused ({code}); check the credentials and the bucket's policy")
    message = error.response.get("Error", {}).get("Message", "")
    if status == 501 or code == "NotImplemented":
        return StoreUnsupportedError(f"{place}: the storage lacks what was asked for ({message}); use another")
    return StoreError(f"{place}: storage answered {code} ({status}): {message}; run again later")
