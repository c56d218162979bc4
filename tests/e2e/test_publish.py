"""Publish to an S3 endpoint over HTTP, consume from another process, and die in the middle."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from indexer.build.release import build_release
from indexer.config import Config, as_document
from indexer.log import read_head
from indexer.store import open_store

pytestmark = pytest.mark.e2e

Shop = Callable[..., Config]
RUN_DATE = "2026-11-20"

CONSUMER = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "pyspark", "pyarrow", "click", "sentence_transformers", "transformers",
                                      "pandas", "jinja2", "tqdm", "scipy", "sklearn", "onnx", "moto"}:
            raise ImportError(f"{name} is not installed at a consumer")
sys.meta_path.insert(0, Block())
import json
from pathlib import Path
from indexer.reader import open_index
index = open_index(sys.argv[1], cache=Path(sys.argv[2]))
def show(new):
    hits = [hit.id for hit in index.search("brand new lamp 777", k=3)]
    print(json.dumps({"new": new, "hits": hits, "queries": index.reformulate("mug red", k=1),
                      "sequence": index.release.sequence}), flush=True)
show(None)
for line in sys.stdin:
    show(index.refresh())
"""

BUILDER = """
import json, os, signal, sys
from pathlib import Path
from indexer import hnsw
from indexer.build import publish, shard
from indexer.build.release import build_release
from indexer.config import Config, ShopConfig
from indexer.index_config import GatesConfig, IndexConfig
from indexer.input_config import CatalogueConfig, PurchasesConfig
values = json.loads(sys.argv[1])
values["catalogue"]["text_fields"] = tuple(values["catalogue"]["text_fields"])
config = Config(shop=ShopConfig(**values["shop"]), catalogue=CatalogueConfig(**values["catalogue"]),
                purchases=PurchasesConfig(path=values["purchases"]["path"]), index=IndexConfig(**values["index"]))
left = int(sys.argv[3])
built = 0
seal = publish.RunFolder.seal
original = shard.build_index
def count(*arguments):
    global built
    built += 1
    return original(*arguments)
def die_after(self, *arguments):
    global left
    sealed = seal(self, *arguments)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return sealed
shard.build_index = count
publish.RunFolder.seal = die_after
summary = build_release(config, "2026-11-20", encoder_directory=Path(sys.argv[2]), story={}, progress=False)
print(json.dumps({"built": built, "summary": summary.as_dict()}))
"""


def start_builder(config: Config, encoder: Path, *, die_after: int) -> subprocess.CompletedProcess[str]:
    """Build in a process of its own that kills itself right after so many sealed markers (0: never)."""
    arguments = [sys.executable, "-c", BUILDER, json.dumps(as_document(config)), str(encoder), str(die_after)]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)


def test_a_consumer_in_another_process_follows_the_releases(
    make_shop: Shop, bucket: str, encoder_directory: Path, products: Any, tmp_path: Path
):
    url = f"{bucket}/shops/one"

    def publish(rows: Sequence[Any]) -> None:
        config = make_shop(rows, queries=["red mug", "lamp"], release=url, shards=2)
        build_release(config, RUN_DATE, encoder_directory=encoder_directory, story={}, progress=False)

    publish(products(200))
    with subprocess.Popen(
        [sys.executable, "-c", CONSUMER, url, str(tmp_path / "cache")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ),
    ) as consumer:  # fmt: skip
        assert consumer.stdout is not None
        assert consumer.stdin is not None

        def ask() -> dict[str, Any]:
            consumer.stdin.write("refresh\n")
            consumer.stdin.flush()
            return json.loads(consumer.stdout.readline())

        first = json.loads(consumer.stdout.readline())
        assert (first["new"], first["sequence"], first["queries"]) == (None, 1, ["red mug"])
        assert len(first["hits"]) == 3
        assert ask() == first | {"new": False}
        publish([*products(200), ("NEW", "brand new lamp 777", "zeta")])
        second = ask()
        assert (second["new"], second["sequence"], second["hits"][0]) == (True, 2, "NEW")
        consumer.stdin.close()
    assert consumer.returncode == 0


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_a_build_that_was_killed_goes_on_at_the_next_shard(
    make_shop: Shop, encoder_directory: Path, products: Any, place: str, request: pytest.FixtureRequest, tmp_path: Path
):
    url = str(tmp_path / "release") if place == "folder" else f"{request.getfixturevalue('bucket')}/shop"
    config = make_shop(products(600), queries=["red mug", "lamp"], release=url, shards=5)
    store = open_store(url)

    def markers() -> dict[str, bytes]:
        return {item.key: store.get(item.key) for item in store.list("v/") if "/done/" in item.key}

    killed = start_builder(config, encoder_directory, die_after=3)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    first = markers()
    assert len(first) == 3
    assert read_head(store) == 0
    killed = start_builder(config, encoder_directory, die_after=2)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    second = markers()
    assert len(second) == 5
    assert {key: second[key] for key in first} == first
    finished = start_builder(config, encoder_directory, die_after=0)
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    # The encoder was sealed first, then four of the shards.
    assert result["built"] == 2
    assert [(item["built"], item["reused"]) for item in result["summary"]["collections"]] == [(1, 4), (1, 0)]
    last = markers()
    assert {key: last[key] for key in second} == second
    assert len(last) == 7
    assert read_head(store) == 1
    again = start_builder(config, encoder_directory, die_after=0)
    assert json.loads(again.stdout)["summary"]["status"] == "already published"
    assert not list((tmp_path / "work").rglob("scratch-*/*"))
