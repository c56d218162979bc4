"""The encoder against plain numpy over its own table, and every way its directory can be wrong."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from tokenizers import Tokenizer

from indexer.encoder import Encoder, open_encoder, plan_batches
from indexer.errors import EncoderError


@pytest.fixture(scope="module")
def encoder(encoder_directory: Path) -> Encoder:
    return open_encoder(encoder_directory, threads=1, batch_tokens=128)


def oracle(directory: Path, text: str, limit: int) -> np.ndarray:
    """Return the normalised sum of the table's rows, cut to the limit with its closing token kept."""
    ids = Tokenizer.from_file(str(directory / "tokenizer.json")).encode(text).ids
    ids = ids if len(ids) <= limit else ids[: limit - 1] + ids[-1:]
    table = numpy_helper.to_array(onnx.load(str(directory / "encoder.onnx")).graph.initializer[0])
    total = table[ids].astype(np.float64).sum(axis=0)
    return total / np.linalg.norm(total)


def test_vectors_are_those_of_plain_numpy_in_input_order(encoder: Encoder, encoder_directory: Path):
    texts = ["red dress", "steel water bottle for kids and school", "a", "desk " * 60, "", "lamp", "red dress"] * 9
    vectors = encoder.encode_products(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (63, 32)
    for text, vector in zip(texts, vectors, strict=True):
        assert np.allclose(vector, oracle(encoder_directory, text, 32), atol=1e-6)


def test_the_first_numbers_of_two_texts_never_change(encoder: Encoder):
    query = encoder.encode_queries(["steel sipper"])[0, :5]
    product = encoder.encode_products(["Baby Bottle | steel | Acme"])[0, :5]
    assert np.allclose(query, [0.092019, 0.030994, -0.055207, 0.008944, -0.028263], atol=1e-5)
    assert np.allclose(product, [-0.19573, 0.09942, 0.037286, -0.020143, -0.144928], atol=1e-5)


def test_queries_are_normalised_by_the_one_rule(encoder: Encoder):
    vectors = encoder.encode_queries(["steel sipper", "  STEEL\u00a0\u200bSipper "])
    assert np.array_equal(vectors[0], vectors[1])


def test_cut_and_unknown_texts_are_counted(encoder: Encoder):
    encoded = encoder.encode(["desk " * 31, "desk " * 30, "中国", "", "!", "red"], kind="product")
    assert list(encoded.truncated) == [True, *[False] * 5]
    assert encoded.empty.tolist() == [False, False, True, True, True, False]
    assert encoder.encode(["desk " * 15, "desk " * 14], kind="query").truncated.tolist() == [True, False]
    # 30 words of four letters, and the 29 spaces between them; of queries 14.
    assert encoder.find_ends(["desk " * 31, "red"], kind="product") == [149, 3]
    assert encoder.find_ends(["desk " * 31], kind="query") == [69]


def test_no_texts_give_no_vectors(encoder: Encoder):
    assert encoder.encode_products([]).shape == (0, 32)


@given(lengths=st.lists(st.integers(1, 60), max_size=80), budget=st.integers(1, 300))
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int):
    batches = [batch.tolist() for batch in plan_batches(np.array(lengths, dtype=np.int64), budget)]
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    sizes = [(len(batch), {lengths[row] for row in batch}) for batch in batches]
    for size, kinds in sizes:
        assert len(kinds) == 1
        assert size * max(kinds) <= budget or size == 1
    for (size, kinds), (_, following) in pairwise(sizes):
        assert min(kinds) < min(following) or (size + 1) * min(kinds) > budget


@given(order=st.permutations([3, 3, 3, 5, 5, 8, 8, 8, 8, 30]))
def test_batches_have_the_same_sizes_in_any_order(order: list[int]):
    sizes = [(len(batch), order[batch[0]]) for batch in plan_batches(np.array(order), 16)]
    assert sizes == [(3, 3), (2, 5), (2, 8), (2, 8), (1, 30)]


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        ([9, 2, 2], 4, [[1, 2], [0]]),
        ([4, 3, 4, 3, 4], 8, [[1, 3], [0, 2], [4]]),
        ([5, 5, 4], 1, [[2], [0], [1]]),
        ([0, 2, 0], 4, [[0, 2], [1]]),
        ([], 4, []),
    ],
)
def test_texts_of_one_length_fill_a_batch(lengths: list[int], budget: int, expected: list[list[int]]):
    assert [batch.tolist() for batch in plan_batches(np.array(lengths, dtype=np.int64), budget)] == expected


@pytest.mark.parametrize("threads", [2, 3])
def test_vectors_are_the_same_for_any_number_of_threads(encoder: Encoder, encoder_directory: Path, threads: int):
    texts = [f"{'steel bottle ' * (row % 9)}lamp {row}" for row in range(200)]
    other = open_encoder(encoder_directory, threads=threads, batch_tokens=128)
    assert np.array_equal(other.encode_products(texts), encoder.encode_products(texts))


def test_chunks_are_encoded_in_order_and_read_one_ahead(encoder: Encoder):
    chunks = [["red", "desk lamp", "中国"], ["mug " * 40], ["a"], ["lamp", "red"]]
    begun = []

    def read() -> Iterator[list[str]]:
        for number, chunk in enumerate(chunks):
            begun.append(number)
            yield chunk

    encoding = encoder.encode_chunks(read(), kind="product")
    for number, (chunk, found) in enumerate(zip(chunks, encoding, strict=True)):
        assert begun == list(range(min(number + 2, 4)))
        assert np.array_equal(found.vectors, encoder.encode_products(chunk))
        assert found.empty.tolist() == [text == "中国" for text in chunk]
        assert found.truncated.tolist() == [text.startswith("mug") for text in chunk]
    assert list(encoder.encode_chunks([], kind="product")) == []


def test_what_fails_in_tokenising_ends_the_encoding(encoder: Encoder):
    encoding = encoder.encode_chunks([["red"], [None], ["lamp"]], kind="product")  # type: ignore[list-item]
    assert next(encoding).vectors.shape == (1, 32)
    with pytest.raises(TypeError):
        next(encoding)
    assert list(encoding) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_what_fails_in_a_batch_ends_the_encoding(
    encoder_directory: Path, monkeypatch: pytest.MonkeyPatch, threads: int
):
    broken = open_encoder(encoder_directory, threads=threads, batch_tokens=1)
    session = broken._session

    class Failing:
        def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> Any:
            if inputs["input_ids"].shape[1] > 4:
                raise MemoryError("no room")
            return session.run(names, inputs)

    monkeypatch.setattr(broken, "_session", Failing())
    with pytest.raises(MemoryError, match="no room"):
        list(broken.encode_chunks([["red", "mug"], ["desk lamp for kids", "red"]], kind="product"))


@pytest.fixture
def copied(encoder_directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(encoder_directory, tmp_path / "encoder"))


def rewrite(directory: Path, **changes: Any) -> None:
    """Change fields of encoder.json and set the hashes to those of the files."""
    path = directory / "encoder.json"
    document = json.loads(path.read_text()) | changes
    for name in document["files"]:
        if (directory / name).exists():
            document["files"][name] = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(document))


def test_the_fingerprint_is_the_hash_of_the_description(copied: Path):
    before = open_encoder(copied, threads=1)
    assert before.fingerprint == hashlib.sha256((copied / "encoder.json").read_bytes()).hexdigest()
    rewrite(copied, name="other")
    assert open_encoder(copied, threads=1).fingerprint != before.fingerprint


@pytest.mark.parametrize("name", ["encoder.json", "encoder.onnx", "tokenizer.json"])
def test_a_missing_file_is_named(copied: Path, name: str):
    (copied / name).unlink()
    with pytest.raises(EncoderError, match=f"{name}: cannot be read"):
        open_encoder(copied)


@pytest.mark.parametrize("name", ["encoder.onnx", "tokenizer.json"])
def test_a_changed_file_is_refused_before_it_is_parsed(copied: Path, name: str):
    data = (copied / name).read_bytes()
    for damaged in (data[:-1], data + b"x", data[:50] + bytes([data[50] ^ 1]) + data[51:], b""):
        (copied / name).write_bytes(damaged)
        with pytest.raises(EncoderError, match=f"{name}: expected SHA-256"):
            open_encoder(copied)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "reads format 1, found 2"),
        ({"precision": "bf16"}, "precision: expected fp32 or int8"),
        ({"dimension": 0}, "dimension: expected a whole number from 1"),
        ({"query_tokens": 2}, "query_tokens"),
        ({"self_test": []}, "self_test: expected at least one"),
        ({"self_test": [{"kind": "query", "text": "a", "vector": [1.0]}]}, "vector: expected 32 numbers"),
        ({"self_test": [{"kind": "title", "text": "a", "vector": [0.0] * 32}]}, "kind: expected query or product"),
        ({"files": {"encoder.onnx": "0" * 64}}, "field 'tokenizer.json' is missing"),
        ({"extra": 1}, "unknown field 'extra'"),
    ],
)
def test_a_malformed_description_is_refused(copied: Path, changes: dict[str, Any], message: str):
    rewrite(copied, **changes)
    with pytest.raises(EncoderError, match=message):
        open_encoder(copied)


def test_a_text_without_separator_is_a_description_like_any(copied: Path):
    rewrite(copied, text_separator="")
    assert open_encoder(copied, threads=1).description.text_separator == ""


def test_an_encoder_that_computes_other_vectors_is_refused(copied: Path):
    model = onnx.load(str(copied / "encoder.onnx"))
    table = numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(table[::-1].copy(), "table"))
    (copied / "encoder.onnx").write_bytes(model.SerializeToString())
    rewrite(copied)
    with pytest.raises(EncoderError, match=r"self-test 'steel sipper': expected a cosine of at least 0\.999"):
        open_encoder(copied)


def test_a_model_that_fails_when_it_computes_is_refused(copied: Path):
    model = onnx.load(str(copied / "encoder.onnx"))
    (norm,) = (node for node in model.graph.node if node.op_type == "LpNormalization")
    next(item for item in norm.attribute if item.name == "axis").i = -(2**40)
    (copied / "encoder.onnx").write_bytes(model.SerializeToString())
    rewrite(copied)
    with pytest.raises(EncoderError, match=r"self-test 'steel sipper': cannot be computed: .*axis"):
        open_encoder(copied)


@pytest.mark.line(99)
def test_a_self_test_vector_of_nan_is_refused(copied: Path):
    rewrite(copied, self_test=[{"kind": "query", "text": "a", "vector": [float("nan")] * 32}])
    with pytest.raises(EncoderError, match="NaN is no JSON number"):
        open_encoder(copied)


def test_files_that_are_no_model_or_tokenizer_are_refused(copied: Path):
    for model, message in (
        (b"not a model", r"encoder\.onnx: the model has wire type 6; it was not opened"),
        # A model without a graph: each of its bytes is in place, and ONNX Runtime has nothing to run.
        (b"\x08\x08", r"encoder\.onnx: cannot be used"),
    ):
        (copied / "encoder.onnx").write_bytes(model)
        rewrite(copied)
        with pytest.raises(EncoderError, match=message):
            open_encoder(copied)
    (copied / "tokenizer.json").write_bytes(b"{}")
    shutil.copy(Path(__file__).parents[1] / "golden" / "encoder_v1" / "encoder.onnx", copied)
    rewrite(copied)
    with pytest.raises(EncoderError, match=r"tokenizer\.json: cannot be used"):
        open_encoder(copied)


@pytest.mark.parametrize(
    "changes",
    [
        {"post_processor": {"type": "TemplateProcessing", "pair": [], "special_tokens": {},
                            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}]}},
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    ],
)  # fmt: skip
def test_a_tokenizer_at_which_its_library_panics_is_refused(copied: Path, changes: dict[str, Any]):
    """At any text, or at one with words; no `except Exception` catches it."""
    document = json.loads((copied / "tokenizer.json").read_text())
    (copied / "tokenizer.json").write_text(json.dumps({**document, **changes}))
    rewrite(copied)
    with pytest.raises(EncoderError, match=r"tokenizer\.json: cannot be used"):
        open_encoder(copied)


def test_a_model_with_other_inputs_is_refused(copied: Path):
    model = onnx.load(str(copied / "encoder.onnx"))
    for node in model.graph.node:
        node.output[:] = ["vector" if name == "embedding" else name for name in node.output]
    model.graph.output[0].name = "vector"
    (copied / "encoder.onnx").write_bytes(model.SerializeToString())
    rewrite(copied)
    with pytest.raises(EncoderError, match=r"expected inputs input_ids and attention_mask and the output embedding"):
        open_encoder(copied)


def test_files_beyond_any_use_are_not_read(copied: Path):
    with (copied / "tokenizer.json").open("r+b") as file:
        file.truncate(65 << 20)
    with pytest.raises(EncoderError, match=r"tokenizer\.json: 68157440 bytes, expected at most 67108864"):
        open_encoder(copied)


@pytest.mark.line(99)
def test_weights_outside_the_model_are_never_read(copied: Path, monkeypatch: pytest.MonkeyPatch):
    model = onnx.load(str(copied / "encoder.onnx"))
    onnx.save_model(
        model, str(copied / "encoder.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=1024
    )
    assert (copied / "weights.bin").exists()
    rewrite(copied)
    monkeypatch.chdir(copied)
    with pytest.raises(EncoderError, match=r"encoder\.onnx: the model has weights outside the file"):
        open_encoder(copied)
