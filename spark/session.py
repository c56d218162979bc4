"""One Spark session: opened for a job, or taken over from spark-submit."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from indexer.errors import ConfigError, ContractError, StoreError
from indexer.job_config import SparkConfig
from spark.java import find_java
from spark.text import SPARK_3, compose_text

ICU = "com.ibm.icu:icu4j:78.3"
"""The Maven name of the library that Spark 4 ships."""

TOO_LARGE = ("ARITHMETIC_OVERFLOW", "CAST_OVERFLOW", "NUMERIC_VALUE_OUT_OF_RANGE")
"""What Spark's messages say where a sum leaves its type."""
NAMES_FILE = ("FAILED_READ_FILE", "Encountered error while reading file", "column cannot be converted in file")
"""What stands in the sentence that names a damaged file: Spark 4's class of it, and the words of Spark 3.5."""
UNREADABLE = (
    *NAMES_FILE,
    "CANNOT_READ_FILE_FOOTER",
    "UNABLE_TO_INFER_SCHEMA",
    "TextParsingException",
    "ZipException",
    "EOFException",
    "not in GZIP format",
    "incorrect header check",
    "is not a Parquet file",
    "COLUMN_ALREADY_EXISTS",
    "CANNOT_MERGE_SCHEMA",
    # Parquet's times, halves of floats and longest decimals, and a column of the name that Spark has for a file's own.
    "PARQUET_TYPE_ILLEGAL",
    "Illegal Parquet type",
    "UNSUPPORTED_TIME_TYPE",
    "DECIMAL_PRECISION_EXCEEDS_MAX_PRECISION",
    '"_metadata"',
    ": cannot be read: ",
)
"""What Spark's messages say where a file is damaged."""
LOST = (
    "Python worker exited unexpectedly",
    "ExecutorLostFailure",
    "No space left on device",
    "Disk quota exceeded",
    "Read-only file system",
    "Cannot call methods on a stopped SparkContext",
    "OutOfMemoryError",
)
"""What they say where a process, a disk or the cluster is gone; the stream of a lost worker ends too early as well.

A context stops itself where no master answers.
"""
SETTINGS = ("INVALID_CONF_VALUE", "JAVA_GATEWAY_EXITED", "should be int, but was", "Failed to parse byte string")
"""What they say of a setting that Spark, or its Java, does not take."""
MESSAGE_CHARACTERS = 300


def open_session(config: SparkConfig, name: str) -> SparkSession:
    """Return the active session or one that spark-submit prepared, else start Spark as configured.

    Time zone (UTC) and ANSI arithmetic are always set, since results depend on them. Raises StoreError where no
    cluster answers.
    """
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    session = SparkSession.getActiveSession()
    if session is None:
        builder = SparkSession.builder.appName(name)
        with spark_failures(name):
            session = builder.getOrCreate() if submitted else _configure(builder, config).getOrCreate()
    if submitted and not session.sparkContext.getConf().contains("spark.sql.shuffle.partitions"):
        session.conf.set("spark.sql.shuffle.partitions", config.shuffle_partitions)
    session.conf.set("spark.sql.session.timeZone", "UTC")
    session.conf.set("spark.sql.ansi.enabled", "true")
    # Otherwise a file with a column of nanoseconds, as pandas writes dates, cannot be read at all.
    session.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
    session.sparkContext.setLogLevel("ERROR")
    if SPARK_3:
        _check_normalizer(session)
    return session


@contextmanager
def spark_failures(place: str) -> Iterator[None]:
    """Turn Spark's report of a damaged file or too large a count into a ContractError, of a loss into a StoreError.

    A setting that it does not take is a ConfigError.
    """
    try:
        yield
    except (PySparkException, Py4JJavaError, OverflowError) as error:
        message = str(error)
        if any(mark in message for mark in TOO_LARGE):
            raise ContractError(
                f"{place}: a sum of counts does not fit into 64 bits; look for absurd counts in the input "
                "and lower purchases.max_purchases"
            ) from error
        if lost := next((mark for mark in LOST if mark in message), None):
            raise StoreError(
                f"{place}: Spark lost what it runs on: {lost}: {_explain(message)}; see that the cluster is up, free "
                "memory or disk, or give a task less by a smaller gram.block_entries, and run it again"
            ) from error
        if any(mark in message for mark in SETTINGS):
            raise ConfigError(
                f"{place}: Spark does not take a setting: {_explain(message)}; correct [spark] conf, java_options, "
                "driver_memory or master"
            ) from error
        if any(mark in message for mark in UNREADABLE):
            raise ContractError(f"{place}: a file cannot be read: {_explain(message)}") from error
        raise


def local_address(path: str | Path) -> str:
    """Return the address of a mounted file or folder, whatever file system Spark takes a bare path for."""
    return f"file:{path}"


def _check_normalizer(session: SparkSession) -> None:
    try:
        session.range(1).select(compose_text(F.lit("\u00e9"))).collect()
    except (PySparkException, Py4JJavaError):
        raise ConfigError(
            f"Spark {session.version} comes without ICU, which normalises texts; add its jar, by "
            f'`--packages {ICU}` of spark-submit or by [spark] conf: "spark.jars.packages" = "{ICU}"'
        ) from None


def _explain(message: str) -> str:
    """Return the sentence of a stack trace that names the file, and the one that names the first cause."""
    lines = [line for line in message.splitlines() if not line.startswith(("An error occurred", "\tat "))]
    named = (line[line.index(mark) :] for line in lines for mark in NAMES_FILE if mark in line)
    first = lines[0] if lines else message
    sentence = next(named, first[first.find("[") + 1 :])
    causes = [line.partition(": ")[2] for line in lines if line.startswith("Caused by: ")]
    return "; ".join(part[:MESSAGE_CHARACTERS] for part in (sentence, *causes[-1:]))


def _configure(builder: SparkSession.Builder, config: SparkConfig) -> SparkSession.Builder:
    os.environ["JAVA_HOME"] = str(find_java())
    quiet = f"-Dlog4j2.configurationFile={(Path(__file__).parent / 'log4j2.properties').as_uri()}"
    settings = {
        "spark.driver.memory": config.driver_memory,
        # Turkish, Azeri and Lithuanian fold i otherwise, and a text would depend on who runs the job.
        "spark.driver.extraJavaOptions": f"-Duser.language=en {quiet} {config.java_options}".strip(),
        "spark.sql.shuffle.partitions": config.shuffle_partitions,
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    if config.master.startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        # A laptop's host name need not resolve, and nobody outside needs to reach the driver.
        settings |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
    for key, value in (settings | dict(config.conf)).items():
        builder = builder.config(key, str(value))
    return builder.master(config.master)
