"""Storage in four verbs: get, put_new, list, delete; nothing is ever overwritten.

`LocalStore` and `S3Store` pass the same tests. Keys are relative, with `/` between their parts.
Bytes of any size travel as files (`put_file`, `get_file`); small objects as bytes.
"""

from pathlib import Path

from indexer.errors import ConfigError
from indexer.redaction import has_credentials
from indexer.store.interface import WHOLE_BYTES, Store, StoredObject, check_key, check_size, hash_file
from indexer.store.local import DRAFT, LocalStore, sync_folder
from indexer.store.s3 import READ_ATTEMPTS, S3Store, SingleWriterStore

__all__ = [
    "DRAFT",
    "READ_ATTEMPTS",
    "WHOLE_BYTES",
    "LocalStore",
    "S3Store",
    "SingleWriterStore",
    "Store",
    "StoredObject",
    "check_key",
    "check_size",
    "hash_file",
    "open_store",
    "sync_folder",
]


def open_store(url: str, *, single_writer: bool = False) -> Store:
    """Open a folder or `s3://bucket/prefix`; raises ConfigError for any other address.

    `single_writer` is for a bucket that knows no conditional writes: see `SingleWriterStore`. A folder needs it never.
    """
    if has_credentials(url):
        raise ConfigError(
            "store address: holds an access key, a password or a signature (not shown); expected s3://bucket/prefix, "
            "credentials come from the standard AWS chain"
        )
    if url.startswith("s3://"):
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket or ".." in prefix.split("/"):
            raise ConfigError(f"store address {url}: expected s3://bucket/prefix")
        return (SingleWriterStore if single_writer else S3Store)(bucket, prefix.strip("/"))
    if "://" in url:
        raise ConfigError(f"store address {url}: expected a folder or s3://bucket/prefix")
    return LocalStore(Path(url))
