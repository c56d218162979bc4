"""A tiny encoder, a tiny shop, and an S3 server on loopback, for every test that needs one."""

import csv
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# How long a case takes depends on what else the machine does.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

GOLDEN = Path(__file__).parent / "golden"
RUN_DATE = "2026-11-20"
COLUMNS = ("product_id", "title", "brand", "updated_at")


OWN_PROCESS = ("tests/jvm/test_spark_submit.py", "tests/jvm/test_two_drivers.py")
"""What starts its own Java machines and makes little use of the shared one."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep in one process the tests of a file, all that share the run of the demo, and all that share a Spark session.

    Java compiles what it has run often: the later tests of one session are the quick ones.
    """
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith("tests/e2e/"):
                return "demo"
            if nodeid.startswith("tests/jvm/") and not nodeid.startswith(OWN_PROCESS):
                return "session"
            return super()._split_scope(nodeid)

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process ends long before the other."""
    items.sort(key=lambda item: not item.nodeid.startswith(("tests/e2e/", "tests/jvm/")))


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def encoder_directory() -> Path:
    return GOLDEN / "encoder_v1"


@pytest.fixture(autouse=True)
def forget_proofs() -> None:
    """Let each test's bucket prove itself: their addresses are the same."""
    from indexer import creation

    creation._proven.clear()


@pytest.fixture
def make_shop(tmp_path: Path) -> Callable[..., Any]:
    """Return a function that writes a shop's tables and returns its configuration."""
    from indexer.config import Config, ShopConfig
    from indexer.index_config import GatesConfig, IndexConfig
    from indexer.input_config import CatalogueConfig, PurchasesConfig

    def make(
        products: Iterable[Sequence[str | None]],
        *,
        queries: Sequence[str] = (),
        release: str | None = None,
        gates: GatesConfig | None = None,
        max_reject_share: float = 0.5,
        **index: Any,
    ) -> Config:
        catalogue = write_catalogue(tmp_path / "catalogue.csv", products)
        if queries:
            write_queries(tmp_path / "work", queries)
        options = {"m": 8, "ef_construction": 40, "ef_search": 64, "recall_queries": 20, "threads": 1} | index
        return Config(
            shop=ShopConfig(work=str(tmp_path / "work"), release=release or str(tmp_path / "release")),
            catalogue=CatalogueConfig(path=str(catalogue), max_reject_share=max_reject_share),
            purchases=PurchasesConfig(path="purchases.csv" if queries else ""),
            index=IndexConfig(**options),
            gates=gates or GatesConfig(),
        )

    return make


def write_catalogue(path: Path, products: Iterable[Sequence[str | None]]) -> Path:
    """Write a catalogue of products that may leave out their last columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([*product, *[None] * (len(COLUMNS) - len(product))] for product in products)
    return path


def write_queries(work: Path, queries: Sequence[str]) -> None:
    """Commit curated queries as the step before the build does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from indexer.contracts import schemas
    from indexer.runs import StepCommit, StepFolder, fingerprint

    ids = [hashlib.sha256(query.encode()).hexdigest()[:16] for query in queries]
    columns = [ids, list(queries), [20.0] * len(queries), [3] * len(queries), [False] * len(queries)]
    step = StepFolder(work, "curated_queries", RUN_DATE)
    attempt = step.new_attempt()
    folder = step.attempt_folder(attempt) / "CURATED_QUERIES"
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns, schema=schemas.CURATED_QUERIES.schema), folder / "part-0.parquet")
    commit = StepCommit(step=step.step, run_date=RUN_DATE, attempt=attempt, fingerprint=fingerprint(list(queries)))
    step.commit(commit, step.next_number())


WORDS = [
    "baby",
    "bottle",
    "steel",
    "cup",
    "mug",
    "water",
    "kids",
    "school",
    "bag",
    "shoes",
    "running",
    "red",
    "blue",
    "green",
    "cotton",
    "shirt",
    "desk",
    "lamp",
]


def list_products(count: int) -> list[tuple[str, str, str]]:
    """Return so many products, the same each time."""
    return [
        (
            f"P{number:05d}",
            " ".join(WORDS[(number * step + number // 7) % len(WORDS)] for step in (1, 3, 7)) + f" {number}",
            ("acme", "zeta")[number % 2],
        )
        for number in range(count)
    ]


@pytest.fixture(scope="session")
def products() -> Callable[[int], list[tuple[str, str, str]]]:
    """Return a function that gives so many products, the same each time."""
    return list_products


@pytest.fixture(scope="session")
def make_shard_rows() -> Callable[..., Any]:
    """Return a function that makes a shard alone in its collection, as exports read it."""
    import numpy as np

    from indexer.export.rows import ShardRows
    from indexer.loaded_shard import LoadedShard
    from indexer.manifest import CollectionEntry
    from indexer.shard_file import Lines

    def make(
        index: Any, ids: Sequence[str], *, texts: Sequence[str] = (), dead: Sequence[int] = (), storage: str = "flat"
    ) -> Any:
        live = np.ones(len(ids), dtype=np.bool_)
        live[list(dead)] = False
        entry = CollectionEntry(
            name="products",
            rows=int(live.sum()),
            rows_in=int(live.sum()),
            duplicates=0,
            rejected={},
            dimension=index.d,
            metric="inner_product",
            storage=storage,
            m=index.hnsw.nb_neighbors(1),
            ef_construction=index.hnsw.efConstruction,
            ef_search=16,
            shards=(),
        )
        lines = [Lines("".join(f"{line}\n" for line in column).encode(), "test") for column in (ids, texts or ids)]
        return ShardRows(
            collection=entry,
            number=0,
            loaded=LoadedShard(index=index, ids=lines[0], texts=lines[1]),
            live=live,
            first=0,
            advance=lambda _: None,
        )

    return make


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Start moto's S3 on loopback and return its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_environment(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Point the standard AWS chain at the test server."""
    environment = {
        "AWS_ENDPOINT_URL_S3": s3_server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture
def bucket(s3_environment: dict[str, str], request: pytest.FixtureRequest) -> str:
    """Make a bucket of the test's own and return its address."""
    from boto3.session import Session

    name = "b" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:20]
    Session().client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def strict_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start an S3 server that checks what it gets (`tests.proof.strict_s3`), and point the AWS chain at it."""
    from tests.proof.strict_s3 import StrictS3, serve

    with serve(StrictS3()) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
