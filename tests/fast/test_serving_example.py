"""The service of docs/examples/serving, as a process of its own, while a second release arrives and is rolled back."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from indexer.build.release import build_release
from indexer.index_config import GatesConfig
from indexer.log import LogEntry, commit_entry, read_entry
from indexer.store import LocalStore

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 120
MANY = 100_000
Products = Callable[[int], Sequence[Any]]


@pytest.fixture
def publish(make_shop: Callable[..., Any], encoder_directory: Path) -> Callable[..., Path]:
    def run(rows: Sequence[Any], day: int) -> Path:
        queries = ["red mug", "school bag", "mug"] if day == 20 else []
        config = make_shop(rows, queries=queries, gates=GatesConfig(max_shrink=1))
        build_release(config, f"2026-11-{day}", encoder_directory=encoder_directory, story={}, progress=False)
        return Path(config.shop.release)

    return run


@pytest.fixture
def address(publish: Callable[..., Path], products: Products) -> Iterator[tuple[str, int]]:
    release = publish(products(60), 20)
    program = [sys.executable, str(ROOT / "docs/examples/serving/server.py"), str(release)]
    process = subprocess.Popen(
        [*program, "--port", "0", "--every", "0.05", "--threads", "2", "--mapped"],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout
    host, port = process.stdout.readline().strip().removeprefix("http://").split(":")
    yield host, int(port)
    process.terminate()
    process.wait(timeout=60)
    process.stdout.close()


def get(connection: HTTPConnection, path: str, **options: Any) -> tuple[int, Any]:
    connection.request("GET", f"{path}?{urlencode(options, doseq=True)}")
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_it_answers_and_names_what_is_wrong(address: tuple[str, int]):
    connection = HTTPConnection(*address, timeout=DEADLINE)
    status, hits = get(connection, "/search", q="red mug", k=3)
    assert (status, len(hits), sorted(hits[0])) == (200, 3, ["id", "score", "text"])
    _, others = get(connection, "/search", q="red mug", k=2, without=[hits[0]["id"]])
    assert others == hits[1:]
    assert get(connection, "/reformulate", q="red mug", k=1)[1] == ["mug"]
    assert {hit["through"] for hit in get(connection, "/source", q="red mug", k=60)[1]} >= {"red mug"}
    assert get(connection, "/release")[1]["rows"] == {"products": 60, "queries": 3}
    assert get(connection, "/search")[0] == get(connection, "/search", q="a", k="many")[0] == 400
    assert get(connection, "/search", q="a", k=0) == (400, {"error": "k: expected 1 to 10000, found 0"})
    assert get(connection, "/elsewhere", q="a")[0] == 404


def test_a_release_arrives_and_goes_under_requests_none_of_which_fails(
    address: tuple[str, int], publish: Callable[..., Path], products: Products
):
    stop, failed, seen = threading.Event(), [], set()

    def ask() -> None:
        connection = HTTPConnection(*address, timeout=DEADLINE)
        while not stop.is_set():
            try:
                status, hits = get(connection, "/search", q="brand new lamp 777", k=1)
                seen.add(hits[0]["id"])
                if status != 200:
                    failed.append(status)
            except Exception as error:
                failed.append(error)
                return

    def wait_for(sequence: int) -> Any:
        connection = HTTPConnection(*address, timeout=DEADLINE)
        for _ in range(MANY):
            if get(connection, "/release")[1]["sequence"] == sequence:
                return get(connection, "/search", q="brand new lamp 777", k=1)[1][0]["id"]
        raise AssertionError(f"entry {sequence} was not served in {MANY} requests")

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    first = wait_for(1)
    release = publish([*products(60), ("NEW", "brand new lamp 777", "zeta")], 21)
    assert wait_for(2) == "NEW"
    store = LocalStore(release)
    entry = read_entry(store, 1)
    assert isinstance(entry, LogEntry)
    commit_entry(store, 2, replace(entry, sequence=3, parent=2, kind="rollback"))
    assert wait_for(3) == first != "NEW"
    stop.set()
    for asker in askers:
        asker.join()
    assert failed == []
    assert seen == {first, "NEW"}
