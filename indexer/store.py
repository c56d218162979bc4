"""Storage in four verbs: get, put_new, list, delete; nothing is ever overwritten.

`LocalStore` and `S3Store` pass the same tests. Keys are relative, with `/` between their parts.
Bytes of any size travel as files (`put_file`, `get_file`); small objects as bytes.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from indexer.errors import ConfigError, ObjectExistsError, ObjectMissingError, StoreError

CHUNK_BYTES = 1 << 20


class StoredObject(NamedTuple):
    """An object as a listing shows it."""

    key: str
    bytes: int


class Store(Protocol):
    """What every store does; all raise StoreError where storage fails."""

    url: str

    def get(self, key: str) -> bytes:
        """Return the object's bytes; raises ObjectMissingError."""

    def get_file(self, key: str, path: Path) -> None:
        """Write the object to a local file; raises ObjectMissingError."""

    def put_new(self, key: str, data: bytes) -> None:
        """Create the object; raises ObjectExistsError where the key is taken, and never retries on its own."""

    def put_file(self, key: str, path: Path) -> None:
        """Create a large object under a key that no other process uses."""

    def size(self, key: str) -> int:
        """Return the object's size in bytes; raises ObjectMissingError."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects under the prefix in key order."""

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""


def open_store(url: str) -> Store:
    """Open a folder or `s3://bucket/prefix`; raises ConfigError for any other address."""
    if url.startswith("s3://"):
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket or ".." in prefix.split("/"):
            raise ConfigError(f"store address {url}: expected s3://bucket/prefix")
        return S3Store(bucket, prefix.strip("/"))
    if "://" in url:
        raise ConfigError(f"store address {url}: expected a folder or s3://bucket/prefix")
    return LocalStore(Path(url))


def check_key(key: str) -> str:
    """Return the key if it stays below the store's root, else raise StoreError."""
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in key or "\0" in key or "%" in key:
        raise StoreError(f"key {key!r}: leaves the store or is not in plain form")
    return key


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class LocalStore:
    """Objects as files below a folder; a new one appears whole, by hard link."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def get(self, key: str) -> bytes:
        """Return the object's bytes; raises ObjectMissingError."""
        try:
            return self._path(key).read_bytes()
        except OSError as error:
            raise _local_error(error, self.url, key) from error

    def get_file(self, key: str, path: Path) -> None:
        """Copy the object to a local file; raises ObjectMissingError."""
        try:
            shutil.copyfile(self._path(key), path)
        except OSError as error:
            raise _local_error(error, self.url, key) from error

    def put_new(self, key: str, data: bytes) -> None:
        """Create the object; raises ObjectExistsError."""
        self._create(key, lambda file: file.write(data))

    def put_file(self, key: str, path: Path) -> None:
        """Create the object from a file; raises ObjectExistsError."""
        with path.open("rb") as source:
            self._create(key, lambda file: shutil.copyfileobj(source, file, CHUNK_BYTES))

    def size(self, key: str) -> int:
        """Return the object's size in bytes; raises ObjectMissingError."""
        try:
            return self._path(key).stat().st_size
        except OSError as error:
            raise _local_error(error, self.url, key) from error

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects under the prefix in key order."""
        start = self.root / prefix.rpartition("/")[0]
        files = (path for path in start.rglob("*") if path.is_file() and not path.name.startswith(".new-"))
        keys = sorted(path.relative_to(self.root).as_posix() for path in files)
        for key in keys:
            if key.startswith(prefix):
                yield StoredObject(key, (self.root / key).stat().st_size)

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            raise _local_error(error, self.url, key) from error

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _create(self, key: str, write: Any) -> None:
        final = self._path(key)
        draft = final.parent / f".new-{uuid.uuid4().hex}"
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, final)
            _sync_folder(final.parent)
        except FileExistsError:
            raise ObjectExistsError(f"{self.url}: {key} exists already") from None
        except OSError as error:
            raise _local_error(error, self.url, key) from error
        finally:
            draft.unlink(missing_ok=True)


class S3Store:
    """Objects below a prefix of a bucket; credentials and endpoint come from the standard AWS chain."""

    def __init__(self, bucket: str, prefix: str) -> None:
        import boto3
        from botocore.config import Config as ClientConfig

        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        timeouts = {"connect_timeout": 5, "read_timeout": 30}
        self._client = boto3.client("s3", config=ClientConfig(retries={"total_max_attempts": 4}, **timeouts))
        # A retried create-only write would meet its own object and read as a lost race.
        self._once = boto3.client("s3", config=ClientConfig(retries={"total_max_attempts": 1}, **timeouts))

    def get(self, key: str) -> bytes:
        """Return the object's bytes; raises ObjectMissingError."""
        with _s3_errors(self.url, key):
            body: bytes = self._client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"].read()
            return body

    def get_file(self, key: str, path: Path) -> None:
        """Download the object to a local file; raises ObjectMissingError."""
        with _s3_errors(self.url, key):
            self._client.download_file(self.bucket, self._key(key), str(path))

    def put_new(self, key: str, data: bytes) -> None:
        """Create the object by a conditional write; raises ObjectExistsError."""
        with _s3_errors(self.url, key):
            self._once.put_object(Bucket=self.bucket, Key=self._key(key), Body=data, IfNoneMatch="*")

    def put_file(self, key: str, path: Path) -> None:
        """Upload a file in parts under a key of its own."""
        with _s3_errors(self.url, key):
            extra = {"ChecksumAlgorithm": "SHA256"}
            self._client.upload_file(str(path), self.bucket, self._key(key), ExtraArgs=extra)

    def size(self, key: str) -> int:
        """Return the object's size in bytes; raises ObjectMissingError."""
        with _s3_errors(self.url, key):
            size: int = self._client.head_object(Bucket=self.bucket, Key=self._key(key))["ContentLength"]
            return size

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects under the prefix in key order."""
        with _s3_errors(self.url, prefix):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for item in page.get("Contents", ()):
                    yield StoredObject(item["Key"].removeprefix(self.prefix), item["Size"])

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""
        with _s3_errors(self.url, key):
            self._client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def _key(self, key: str) -> str:
        return self.prefix + check_key(key)


class _s3_errors:  # noqa: N801 - reads as a statement
    """Turn boto3's errors into the project's, with the address and what to do."""

    def __init__(self, url: str, key: str) -> None:
        self.place = f"{url}: {key}" if key else url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        if isinstance(error, ClientError):
            raise _client_error(error, self.place) from error
        if isinstance(error, NoCredentialsError):
            raise StoreError(
                f"{self.place}: no AWS credentials found; set a profile, role or AWS_ACCESS_KEY_ID"
            ) from None
        if isinstance(error, BotoCoreError | Boto3Error):
            raise StoreError(f"{self.place}: storage cannot be reached or broke off: {error}") from error


def _client_error(error: Any, place: str) -> StoreError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code in ("404", "NoSuchKey", "NotFound"):
        return ObjectMissingError(f"{place}: no such object")
    if code in ("412", "PreconditionFailed"):
        return ObjectExistsError(f"{place}: exists already")
    if code == "NoSuchBucket":
        return StoreError(f"{place}: no such bucket; create it or correct the address")
    if code in ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"):
        return StoreError(f"{place}: access refused ({code}); check the credentials and the bucket's policy")
    return StoreError(f"{place}: storage answered {code}: {error.response.get('Error', {}).get('Message', '')}")


def _local_error(error: OSError, url: str, key: str) -> StoreError:
    if isinstance(error, FileNotFoundError):
        return ObjectMissingError(f"{url}: {key}: no such object")
    return StoreError(f"{url}: {key}: {error.strerror or error}; check the folder, its rights and the disk")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
