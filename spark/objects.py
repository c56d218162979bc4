"""Objects that only Spark's cluster can read, listed and opened through the file system of its Java."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.sql import SparkSession

from indexer.errors import StoreError


class StoredObject(NamedTuple):
    """An object of a store."""

    address: str
    size: int
    changed: int
    """Milliseconds since 1970."""


def list_objects(session: SparkSession, address: str) -> list[StoredObject]:
    """Return the object at the address, or all below it, hidden ones too, in order; none where nothing is there.

    Raises StoreError where the store refuses or does not answer.
    """
    found = []
    with _store_failures(address):
        path, files = _open_store(session, address)
        if not files.exists(path):
            return []
        listed = files.listFiles(path, True)
        while listed.hasNext():
            item = listed.next()
            found.append(StoredObject(item.getPath().toString(), item.getLen(), item.getModificationTime()))
    return sorted(found)


def read_first_line(session: SparkSession, address: str, *, limit: int) -> str:
    """Return the first line of a text object, plain or compressed, or so much of it as `limit` bytes hold.

    Raises StoreError where it cannot be read.
    """
    java: Any = session.sparkContext._jvm
    configuration = session.sparkContext._jsc.hadoopConfiguration()
    with _store_failures(address):
        path, files = _open_store(session, address)
        codec = java.org.apache.hadoop.io.compress.CompressionCodecFactory(configuration).getCodec(path)
        stream = files.open(path)
        try:
            lines = java.org.apache.hadoop.util.LineReader(codec.createInputStream(stream) if codec else stream)
            text = java.org.apache.hadoop.io.Text()
            lines.readLine(text, limit, limit)
            return str(text.toString())
        finally:
            stream.close()


@contextmanager
def _store_failures(address: str) -> Iterator[None]:
    try:
        yield
    except Py4JJavaError as error:
        reason = str(error.java_exception.toString()).splitlines()[0]
        raise StoreError(
            f"{address}: cannot be read by the cluster: {reason}; look at hadoop-aws, credentials and endpoint of the "
            "session (`[spark] conf` or spark-submit)"
        ) from error


def _open_store(session: SparkSession, address: str) -> tuple[Any, Any]:
    """Return the address as a path of Hadoop's, and the file system that it lies in."""
    java: Any = session.sparkContext._jvm
    path = java.org.apache.hadoop.fs.Path(address)
    return path, path.getFileSystem(session.sparkContext._jsc.hadoopConfiguration())
