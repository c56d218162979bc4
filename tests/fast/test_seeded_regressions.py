"""A night that went wrong in one of many ways never goes live, and a clean one is never kept back."""

import csv
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from indexer import hnsw
from indexer.build import base_shard, catalogue, release, shard, site
from indexer.build.duplicates import UniqueRows
from indexer.build.embed import EmbeddedRows
from indexer.build.release import build_release
from indexer.config import Config, ShopConfig
from indexer.encoder import Encoded, Encoder
from indexer.errors import ConfigError, EncoderError, GateError, IndexerError, IntegrityError
from indexer.index_config import GatesConfig, IndexConfig
from indexer.input_config import CatalogueConfig
from indexer.log import live_entry, read_head
from indexer.reader import open_index
from indexer.store import LocalStore

Product = tuple[str, str]
Edit = Callable[[list[Product]], list[Product]]
ROWS = 1_200
# Of 1,200 rows the hub gate judges a share of 20 %.
GATES = GatesConfig(max_hub_share=0.2)


def write_titles(rows: int, draw: random.Random, words: Sequence[str], *, start: int = 0) -> list[Product]:
    return [(f"P{number:05d}", make_title(draw, words)) for number in range(start, start + rows)]


def make_title(draw: random.Random, words: Sequence[str]) -> str:
    return " ".join(draw.sample(list(words), 5))


@pytest.fixture(scope="module")
def words(encoder_directory: Path) -> list[str]:
    vocabulary = json.loads((encoder_directory / "tokenizer.json").read_text())["model"]["vocab"]
    return [word for word in vocabulary if word.isalpha() and len(word) > 2]


class Shop:
    """A shop in a folder of its own."""

    def __init__(self, folder: Path, encoder: Path) -> None:
        self.folder = folder
        self.encoder = encoder
        self.gates = GATES
        self.index: dict[str, Any] = {}

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.folder / "release")

    def build(self, rows: Sequence[Product], run_date: str, **options: Any) -> dict[str, Any]:
        path = self.folder / "catalogue.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("product_id", "title"), *rows])
        index = {"m": 8, "ef_construction": 60, "shards": 2, "recall_queries": 120, "threads": 1} | self.index
        config = Config(
            shop=ShopConfig(work=str(self.folder / "work"), release=str(self.folder / "release")),
            catalogue=CatalogueConfig(path=str(path)),
            index=IndexConfig(**index),
            gates=self.gates,
        )
        summary = build_release(config, run_date, encoder_directory=self.encoder, story={}, progress=False, **options)
        assert summary.status == "published"
        return summary.collections[0]


@pytest.fixture(scope="module")
def first_night(tmp_path_factory: pytest.TempPathFactory, encoder_directory: Path, words: list[str]) -> Any:
    """Publish a clean first night; returns its folder and rows."""
    rows = write_titles(ROWS, random.Random(1), words)
    shop = Shop(tmp_path_factory.mktemp("first"), encoder_directory)
    shop.build(rows, "2026-11-01")
    return shop.folder, rows


@pytest.fixture
def shop(first_night: Any, tmp_path: Path, encoder_directory: Path) -> Shop:
    shutil.copytree(first_night[0] / "release", tmp_path / "release")
    return Shop(tmp_path, encoder_directory)


@pytest.fixture
def tonight(first_night: Any, words: list[str]) -> list[Product]:
    """Rows of a second night: one in fifty has another title."""
    draw = random.Random(2)
    return [
        (name, make_title(draw, words) if at % 50 == 0 else title) for at, (name, title) in enumerate(first_night[1])
    ]


def hash_files(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def expect_refusal(
    shop: Shop, rows: Sequence[Product], match: str, error: type[IndexerError] = GateError, **options: Any
) -> None:
    """Build a night that must not go live, and look at what is live afterwards."""
    before, head = hash_files(shop.folder / "release"), read_head(shop.store)
    with pytest.raises(error, match=match) as caught:
        shop.build(rows, "2026-11-02", **options)
    assert caught.value.exit_code == error.exit_code
    assert read_head(shop.store) == head == 1
    after = hash_files(shop.folder / "release")
    assert {path: after[path] for path in before} == before
    assert open_index(str(shop.folder / "release")).release.run_date == "2026-11-01"


# What the first of these changes is the embedded rows of a shard.


def spoil_vectors(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[EmbeddedRows], EmbeddedRows]) -> None:
    embed_rows = shard.embed_rows
    monkeypatch.setattr(shard, "embed_rows", lambda *rows, **options: spoil(embed_rows(*rows, **options)))


def scale(factor: float, every: int) -> Callable[[EmbeddedRows], EmbeddedRows]:
    def spoil(embedded: EmbeddedRows) -> EmbeddedRows:
        embedded.vectors[::every] *= np.float32(factor)
        return embedded

    return spoil


@pytest.mark.parametrize(
    ("factor", "every"),
    [(np.nan, 10_000), (0.0, 10_000), (1.5, 100), (np.inf, 10_000)],
    ids=["nan", "zero", "long", "inf"],
)
@pytest.mark.parametrize("reuse", ["all", "none"])
def test_vectors_without_unit_length(
    shop: Shop, tonight: Any, monkeypatch: pytest.MonkeyPatch, factor: float, every: int, reuse: str
):
    spoil_vectors(monkeypatch, scale(factor, every))
    expect_refusal(shop, tonight, "gate max_norm_error, shard products-0000", reuse=reuse)


def test_ids_that_belong_to_other_vectors(shop: Shop, tonight: Any, monkeypatch: pytest.MonkeyPatch):
    spoil_vectors(monkeypatch, lambda embedded: replace(embedded, rows=embedded.rows[::-1]))
    expect_refusal(
        shop, tonight, r"found by their own text.*products canary overlap@10 with a release by the same", reuse="none"
    )


@pytest.mark.line(95)
def test_ids_that_stand_twice(shop: Shop, tonight: Any, monkeypatch: pytest.MonkeyPatch):
    spoil_vectors(monkeypatch, lambda embedded: replace(embedded, rows=[embedded.rows[1], *embedded.rows[1:]]))
    expect_refusal(shop, tonight, "1 ids stand twice", IntegrityError)


def spoil_lines(monkeypatch: pytest.MonkeyPatch, ending: str, spoil: Callable[[list[str]], list[str]]) -> None:
    write_lines = shard.write_lines

    def write(path: Path, values: Iterator[str]) -> None:
        write_lines(path, spoil(list(values)) if path.suffix == ending else values)

    monkeypatch.setattr(shard, "write_lines", write)


@pytest.mark.parametrize(
    ("ending", "spoil", "match"),
    [
        (".ids", lambda lines: lines[::-1], "the ids read back are not those written"),
        (".ids", lambda lines: lines[:-1], "lines, found"),
        (".texts", lambda lines: [""] * len(lines), "the texts read back are not those written"),
        (".texts", lambda lines: lines[1:] + lines[:1], "the texts read back are not those written"),
    ],
    ids=["shuffled ids", "cut ids", "empty texts", "shifted texts"],
)
def test_files_that_are_not_what_was_embedded(
    shop: Shop, tonight: Any, monkeypatch: pytest.MonkeyPatch, ending: str, spoil: Any, match: str
):
    spoil_lines(monkeypatch, ending, spoil)
    expect_refusal(shop, tonight, match, IntegrityError)


# Rows that get lost on the way.


def test_rows_that_are_dropped(shop: Shop, tonight: Any, monkeypatch: pytest.MonkeyPatch):
    read_rows = site.read_rows
    monkeypatch.setattr(site, "read_rows", lambda path: (row for at, row in enumerate(read_rows(path)) if at % 10))
    expect_refusal(shop, tonight, r"products rows lost: expected 0, found 1\d\d\.")


def test_half_a_shard_is_missing(shop: Shop, tonight: Any, monkeypatch: pytest.MonkeyPatch):
    resolve = base_shard.resolve_duplicates

    def halve(rows: Any) -> UniqueRows:
        unique = resolve(rows)
        unique.rows = unique.rows[::2]
        return unique

    monkeypatch.setattr(base_shard, "resolve_duplicates", halve)
    expect_refusal(shop, tonight, "products rows lost: expected 0, found [56]")


def test_a_shard_without_rows(shop: Shop, tonight: Any, monkeypatch: pytest.MonkeyPatch):
    read_rows = site.read_rows
    monkeypatch.setattr(site, "read_rows", lambda path: iter(()) if "00001" in path.name else read_rows(path))
    expect_refusal(shop, tonight, "no rows are left for shard products-00001", ConfigError)


# Inputs of another day or another shop.


def test_a_catalogue_of_half_the_size(shop: Shop, tonight: Any):
    expect_refusal(shop, tonight[: ROWS // 2], r"share lost since an earlier night: expected at most 0\.3, found 0\.5")


def test_a_catalogue_that_is_there_three_times(shop: Shop, tonight: Any):
    copies = [(f"{part}{name}", title) for part in "PQR" for name, title in tonight]
    expect_refusal(shop, copies, r"share gained since an earlier night: expected at most 1\.0, found 2\.0")


def test_a_catalogue_of_another_shop(shop: Shop, words: list[str]):
    rows = write_titles(ROWS, random.Random(9), words, start=50_000)
    expect_refusal(shop, rows, r"products share of ids exchanged: expected at most 0\.3, found 1\.0")


def test_titles_that_were_swapped_between_products(shop: Shop, tonight: Any):
    rows = [(name, other) for (name, _), (_, other) in zip(tonight, tonight[1:] + tonight[:1], strict=True)]
    expect_refusal(
        shop, rows, r"canary overlap@10 with a release by the same encoder: expected at least 0\.5, found 0\.0"
    )


def test_a_few_swapped_titles_are_seen_by_golden_queries(shop: Shop, tonight: Any):
    golden = shop.folder / "golden.tsv"
    rows = [f"{title}\t{name}\t3\n" for name, title in tonight[1:9]]
    golden.write_text("query\tproduct_id\twithin\n" + "".join(rows))
    shop.gates = replace(GATES, golden=str(golden))
    swapped = [(name, tonight[(at % 9) + 1 if at < 9 else at][1]) for at, (name, _) in enumerate(tonight)]
    expect_refusal(shop, swapped, r"golden queries: expected at least 1\.0 \(8 not within rank, such as 'P00001' for")


def test_titles_without_a_letter(shop: Shop, tonight: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(catalogue, "as_one_line", lambda text: "")
    expect_refusal(shop, tonight, "gate titles: no product has a title")


# Graphs that lost their way.


def spoil_graph(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Any], None]) -> None:
    def build(vectors: np.ndarray, options: IndexConfig) -> Any:
        index = hnsw.build_index(vectors, options)
        spoil(index)
        return index

    monkeypatch.setattr(shard, "build_index", build)


def cut_links(index: Any) -> None:
    links = faiss.vector_to_array(index.hnsw.neighbors)
    links[:] = -1
    faiss.copy_array_to_vector(links, index.hnsw.neighbors)


def isolate_entry(index: Any) -> None:
    links, offsets = faiss.vector_to_array(index.hnsw.neighbors), faiss.vector_to_array(index.hnsw.offsets)
    entry = index.hnsw.entry_point
    links[offsets[entry] : offsets[entry + 1]] = -1
    faiss.copy_array_to_vector(links, index.hnsw.neighbors)


def lengthen_a_vector(index: Any) -> None:
    stored = faiss.downcast_index(index.storage).get_xb()
    faiss.rev_swig_ptr(stored, index.ntotal * index.d).reshape(index.ntotal, index.d)[7] *= np.float32(4)


@pytest.mark.parametrize("spoil", [cut_links, isolate_entry])
def test_graphs_that_find_too_little(shop: Shop, tonight: Any, monkeypatch: pytest.MonkeyPatch, spoil: Any):
    spoil_graph(monkeypatch, spoil)
    expect_refusal(shop, tonight, r"products recall@10: expected at least 0\.95", reuse="none")


def test_a_search_that_looks_at_too_few(shop: Shop, tonight: Any):
    shop.index = {"ef_search": 1, "m": 2, "ef_construction": 4}
    expect_refusal(shop, tonight, r"products recall@10: expected at least 0\.95")


def test_a_vector_near_everything(shop: Shop, tonight: Any, monkeypatch: pytest.MonkeyPatch):
    spoil_graph(monkeypatch, lengthen_a_vector)
    expect_refusal(
        shop, tonight, r"one row among the first 10: expected at most 0\.2, exceeded by 'P\d+', found 0\.", reuse="none"
    )


@pytest.mark.line(94)
def test_a_wrong_metric(shop: Shop, tonight: Any, monkeypatch: pytest.MonkeyPatch):
    def build(vectors: np.ndarray, options: IndexConfig) -> Any:
        index = faiss.IndexHNSWFlat(vectors.shape[1], options.m, faiss.METRIC_L2)
        index.add(vectors)
        return index

    monkeypatch.setattr(shard, "build_index", build)
    expect_refusal(shop, tonight, "trained flag and metric", IntegrityError)


def test_a_quantiser_that_was_trained_on_something_else(shop: Shop, tonight: Any, monkeypatch: pytest.MonkeyPatch):
    shop.index = {"storage": "sq8"}

    def build(vectors: np.ndarray, options: IndexConfig) -> Any:
        index = hnsw._empty_index(vectors.shape[1], options)
        index.train(vectors * np.float32(0.2))
        index.add(vectors)
        return index

    monkeypatch.setattr(shard, "build_index", build)
    expect_refusal(shop, tonight, "another vector than was added", IntegrityError)


# Encoders that are not what they say.


def copy_encoder(source: Path, target: Path, *, tested: bool, **changes: Callable[[bytes], bytes]) -> Path:
    """Copy an encoder with changed files; `tested` lets it describe itself as it is now, like a fresh export."""
    shutil.copytree(source, target)
    description = json.loads((target / "encoder.json").read_text())
    for name, change in changes.items():
        path = target / {"model": "encoder.onnx", "tokenizer": "tokenizer.json"}[name]
        path.write_bytes(change(path.read_bytes()))
        description["files"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (target / "encoder.json").write_text(json.dumps(description))
    if tested:
        describe_itself(target, description)
    return target


def describe_itself(target: Path, description: dict[str, Any]) -> None:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

    session = InferenceSession(str(target / "encoder.onnx"), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    for test in description["self_test"]:
        ids = np.array([tokenizer.encode(test["text"].lower()).ids], dtype=np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        test["vector"] = session.run(["embedding"], feed)[0][0].astype(float).tolist()
    (target / "encoder.json").write_text(json.dumps(description))


def swap_words(data: bytes) -> bytes:
    document = json.loads(data)
    vocabulary = document["model"]["vocab"]
    numbers = list(vocabulary.values())[4:]
    moved = dict(zip(list(vocabulary)[4:], numbers[1:] + numbers[:1], strict=True))
    document["model"]["vocab"] = {**vocabulary, **moved}
    return json.dumps(document).encode()


def pool_first_word(data: bytes) -> bytes:
    """Let the vector be that of one token instead of the sum of all."""
    model = onnx.load_from_string(data)
    nodes = [node for node in model.graph.node if node.op_type != "ReduceSum"]
    place = numpy_helper.from_array(np.array(1), name="place")
    nodes.insert(len(nodes) - 1, helper.make_node("Gather", ["masked", "place"], ["summed"], axis=1))
    initial = [*model.graph.initializer, place]
    graph = helper.make_graph(nodes, "tiny", model.graph.input, model.graph.output, initial)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version).SerializeToString()


def other_weights(data: bytes) -> bytes:
    model = onnx.load_from_string(data)
    table = numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(table[::-1].copy(), name="table"))
    return model.SerializeToString()


def narrow_weights(data: bytes) -> bytes:
    model = onnx.load_from_string(data)
    table = numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(table[:, :16].copy(), name="table"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 16
    return model.SerializeToString()


@pytest.mark.parametrize(
    "changes",
    [{"tokenizer": swap_words}, {"model": pool_first_word}, {"model": other_weights}, {"model": narrow_weights}],
    ids=["wrong tokenizer", "wrong pooling", "stale weights", "other dimension"],
)
@pytest.mark.line(100)
def test_an_encoder_that_does_not_compute_what_it_was_exported_with(
    shop: Shop, tonight: Any, encoder_directory: Path, tmp_path: Path, changes: Any
):
    shop.encoder = copy_encoder(encoder_directory, tmp_path / "encoder", tested=False, **changes)
    expect_refusal(shop, tonight, "self-test|dimension", EncoderError)


def test_weights_that_were_exchanged_under_the_same_name(
    shop: Shop, tonight: Any, encoder_directory: Path, tmp_path: Path
):
    shop.encoder = shutil.copytree(encoder_directory, tmp_path / "encoder")
    model = shop.encoder / "encoder.onnx"
    model.write_bytes(other_weights(model.read_bytes()))
    expect_refusal(shop, tonight, "expected SHA-256", EncoderError)


@pytest.mark.line(100)
def test_wrong_pooling_that_was_exported_so(shop: Shop, tonight: Any, encoder_directory: Path, tmp_path: Path):
    shop.encoder = copy_encoder(encoder_directory, tmp_path / "encoder", tested=True, model=pool_first_word)
    expect_refusal(shop, tonight, r"products found by their own text: expected at least 0\.5, found 0\.")


def spoil_encoder(
    monkeypatch: pytest.MonkeyPatch, side: str, spoil: Callable[[Encoder, Sequence[str]], Encoded]
) -> None:
    """Let the encoder be good while it is tested, and then another for one side."""
    opened, encode = release.open_encoder, Encoder.encode

    def open_spoiled(*arguments: Any, **options: Any) -> Encoder:
        encoder = opened(*arguments, **options)

        def answer(texts: Sequence[str], *, kind: str) -> Encoded:
            return spoil(encoder, texts) if kind == side else encode(encoder, texts, kind=kind)

        encoder.encode = answer  # type: ignore[method-assign]
        return encoder

    monkeypatch.setattr(release, "open_encoder", open_spoiled)


def test_queries_without_unit_length(shop: Shop, tonight: Any, monkeypatch: pytest.MonkeyPatch):
    encode = Encoder.encode

    def stretch(self: Encoder, texts: Sequence[str]) -> Encoded:
        encoded = encode(self, texts, kind="query")
        return encoded._replace(vectors=encoded.vectors * 2)

    spoil_encoder(monkeypatch, "query", stretch)
    expect_refusal(shop, tonight, "gate max_norm_error, queries")


def test_queries_with_a_prefix_that_products_know_nothing_of(shop: Shop, tonight: Any, monkeypatch: pytest.MonkeyPatch):
    encode = Encoder.encode

    def prefix(self: Encoder, texts: Sequence[str]) -> Encoded:
        return encode(self, [f"represent this sentence {text}" for text in texts], kind="query")

    spoil_encoder(monkeypatch, "query", prefix)
    expect_refusal(shop, tonight, r"products found by their own text: expected at least 0\.5")


def test_products_embedded_by_other_weights_than_the_live_ones(
    shop: Shop, tonight: Any, monkeypatch: pytest.MonkeyPatch
):
    encode = Encoder.encode

    def turn(self: Encoder, texts: Sequence[str]) -> Encoded:
        encoded = encode(self, texts, kind="product")
        return encoded._replace(vectors=encoded.vectors[:, ::-1].copy())

    spoil_encoder(monkeypatch, "product", turn)
    expect_refusal(shop, tonight, r"products cosine of kept vectors: expected at least 0\.98")


def test_thirty_clean_nights_go_live(tmp_path: Path, encoder_directory: Path, words: list[str]):
    draw = random.Random(4)
    shop = Shop(tmp_path, encoder_directory)
    rows = write_titles(1_000, draw, words)
    for night in range(1, 31):
        share = draw.uniform(0.01, 0.03)
        rows = edit_rows(rows, draw, words, share, night)
        shop.build(rows, f"2026-11-{night:02d}")
    assert read_head(shop.store) == 30
    entry = live_entry(shop.store)
    assert entry
    assert entry.run_id.startswith("2026-11-30")


def edit_rows(
    rows: Sequence[Product], draw: random.Random, words: Sequence[str], share: float, night: int
) -> list[Product]:
    """Change, drop and add a third of the share each."""
    kept = []
    for name, title in rows:
        kind = draw.random() / share
        if kind > 1 / 3:
            kept.append((name, make_title(draw, words) if kind < 2 / 3 else title))
    added = round(len(rows) * share / 3)
    return kept + [(f"N{night}-{number}", make_title(draw, words)) for number in range(added)]
