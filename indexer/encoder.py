"""The encoder of a release: texts to unit vectors by ONNX Runtime, without torch.

A directory holds `encoder.onnx` (pooling and normalisation in the graph), `tokenizer.json` and `encoder.json`,
which names the hashes of the other two and carries vectors that the loaded encoder must reproduce.
"""

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from indexer.errors import EncoderError, StoreError
from indexer.manifest import ENCODER_FILES
from indexer.onnx_file import MAX_MODEL_BYTES, check_model
from indexer.strict_json import MAX_DOCUMENT_BYTES, Record, check_format, parse_record
from indexer.text import normalise_query

FORMAT = 1
MAX_FILE_BYTES = {
    "encoder.json": MAX_DOCUMENT_BYTES,
    "encoder.onnx": MAX_MODEL_BYTES,
    "tokenizer.json": 64 << 20,
}
"""A vocabulary of a million words takes 40 MB."""
MIN_SELF_TEST_COSINE = {"fp32": 0.999, "int8": 0.98}
"""Least cosine between a stored vector and the loaded encoder's; int8 arithmetic differs between CPU families."""

SLOW_FUSIONS = ("SkipLayerNormFusion",)
"""What ONNX Runtime is not to fuse: measured, its fused kernel takes several times as long as the sum and the norm."""

NOWHERE = "/dev/null/no-folder"

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """A text and the vector it had on the machine that exported the encoder."""

    kind: str
    text: str
    vector: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class EncoderDescription:
    """The content of `encoder.json`."""

    name: str
    precision: str
    dimension: int
    query_tokens: int
    product_tokens: int
    text_fields: tuple[str, ...]
    """Catalogue columns whose join the product side was trained on."""
    text_separator: str
    files: Mapping[str, str]
    """File -> SHA-256."""
    self_test: tuple[SelfTest, ...]
    parity: Mapping[str, Any] = field(default_factory=dict)


class Encoded(NamedTuple):
    """Unit vectors in the order of the texts."""

    vectors: Vectors
    truncated: npt.NDArray[np.bool_]
    """Texts longer than the limit, whose end was not read."""
    empty: npt.NDArray[np.bool_]
    """Texts in which the tokenizer found nothing it knows; their vectors mean nothing."""


class Tokens(NamedTuple):
    """Texts as token ids, one text after another."""

    ids: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    truncated: npt.NDArray[np.bool_]
    empty: npt.NDArray[np.bool_]

    def take(self, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
        """Return ids and mask, both (rows, tokens) int64, of texts that have equally many tokens."""
        ids = self.ids[self.starts[rows, None] + np.arange(self.lengths[rows[0]])]
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


class Encoder:
    """A loaded encoder; safe to share between threads.

    A vector is decided by its text alone: each batch is computed by one thread and has no padding, and in int8, where
    one scale serves all activations of a layer, each text is a batch.
    """

    def __init__(
        self, description: EncoderDescription, fingerprint: str, files: Mapping[str, bytes], threads: int, budget: int
    ) -> None:
        self.description = description
        self.fingerprint = fingerprint
        """SHA-256 of encoder.json, which holds the hashes of the other files."""
        self.dimension = description.dimension
        self._budget = budget if description.precision == "fp32" else 1
        self._threads = threads or os.cpu_count() or 1
        self._session = _open_session(files["encoder.onnx"])
        _check_width(self._session, description.dimension)
        limits = {"query": description.query_tokens, "product": description.product_tokens}
        self._tokenizers = {kind: _open_tokenizer(files["tokenizer.json"], limit) for kind, limit in limits.items()}
        self._meaningless = _meaningless_tokens(self._tokenizers["query"])

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Return float32 (n, dimension) unit vectors of queries, normalised by the one rule for queries."""
        return self.encode([normalise_query(text) for text in texts], kind="query").vectors

    def encode_products(self, texts: Sequence[str]) -> Vectors:
        """Return float32 (n, dimension) unit vectors of product texts."""
        return self.encode(texts, kind="product").vectors

    def find_empty(self, texts: Sequence[str], *, kind: str) -> npt.NDArray[np.bool_]:
        """Return which texts, of kind query or product, have nothing that the tokenizer knows."""
        return self._tokenise(texts, kind).empty

    def find_ends(self, texts: Sequence[str], *, kind: str) -> list[int]:
        """Return how many characters of each text, of kind query or product, are read.

        Takes several times as long as to tokenise: ask it of the texts that were truncated.
        """
        with _tokenizing():
            encodings = self._tokenizers[kind].encode_batch(list(texts))
        return [max(end for _, end in item.offsets) for item in encodings]

    def encode(self, texts: Sequence[str], *, kind: str) -> Encoded:
        """Encode texts as they are, `kind` query or product; memory grows with the texts of one call."""
        return self._embed(self._tokenise(texts, kind))

    def encode_chunks(self, chunks: Iterable[Sequence[str]], *, kind: str) -> Iterator[Encoded]:
        """Encode chunk after chunk as `encode` does, while the next chunk, and no more, is tokenised beside it."""
        with ThreadPoolExecutor(1) as tokenising:
            waiting: list[Future[Tokens]] = []
            for chunk in chunks:
                waiting.append(tokenising.submit(self._tokenise, chunk, kind))
                if len(waiting) == 2:
                    yield self._embed(waiting.pop(0).result())
            for tokens in waiting:
                yield self._embed(tokens.result())

    def _tokenise(self, texts: Sequence[str], kind: str) -> Tokens:
        with _tokenizing():
            encodings = self._tokenizers[kind].encode_batch_fast(list(texts))
        ids = [item.ids for item in encodings]
        lengths = np.array([len(item) for item in ids], dtype=np.int64)
        return Tokens(
            ids=np.fromiter(chain.from_iterable(ids), dtype=np.int64, count=int(lengths.sum())),
            starts=lengths.cumsum() - lengths,
            lengths=lengths,
            truncated=np.array([bool(item.overflowing) for item in encodings], dtype=np.bool_),
            empty=np.array([self._meaningless.issuperset(item) for item in ids], dtype=np.bool_),
        )

    def _embed(self, tokens: Tokens) -> Encoded:
        vectors = np.empty((len(tokens.lengths), self.dimension), dtype=np.float32)

        def run(rows: npt.NDArray[np.int64]) -> None:
            vectors[rows] = self._session.run(["embedding"], tokens.take(rows))[0]

        # The longest first, so that the last thread has little left when the others have ended.
        batches = list(plan_batches(tokens.lengths, self._budget))[::-1]
        if len(batches) < 2 or self._threads == 1:
            for rows in batches:
                run(rows)
        else:
            with ThreadPoolExecutor(min(self._threads, len(batches))) as pool:
                list(pool.map(run, batches))
        return Encoded(vectors, truncated=tokens.truncated, empty=tokens.empty)


def open_encoder(directory: Path, *, threads: int = 0, batch_tokens: int = 512) -> Encoder:
    """Load an encoder from its directory; `threads` 0 means one per core.

    A batch holds at most `batch_tokens` tokens, or one text, which bounds what ONNX Runtime's arena keeps per thread.
    Raises EncoderError where a file is missing, is not the one described, or computes other vectors.
    """
    return load_encoder({name: directory / name for name in ENCODER_FILES}, threads=threads, batch_tokens=batch_tokens)


def load_encoder(files: Mapping[str, Path], *, threads: int = 0, batch_tokens: int = 512) -> Encoder:
    """Load an encoder from its three files, wherever they lie."""
    contents = {name: _read_file(files[name], MAX_FILE_BYTES[name]) for name in ENCODER_FILES}
    description = parse_description(contents["encoder.json"], str(files["encoder.json"]))
    for name, expected in description.files.items():
        found = hashlib.sha256(contents[name]).hexdigest()
        if found != expected:
            raise EncoderError(f"{files[name]}: expected SHA-256 {expected}, found {found}; export the encoder again")
    check_model(contents["encoder.onnx"], str(files["encoder.onnx"]))
    fingerprint = hashlib.sha256(contents["encoder.json"]).hexdigest()
    encoder = Encoder(description, fingerprint, contents, threads, batch_tokens)
    check_self_test(encoder, str(files["encoder.json"].parent))
    return encoder


def check_self_test(encoder: Encoder, place: str) -> None:
    """Raise EncoderError unless the encoder reproduces the vectors it was exported with."""
    least = MIN_SELF_TEST_COSINE[encoder.description.precision]
    for test in encoder.description.self_test:
        text = normalise_query(test.text) if test.kind == "query" else test.text
        try:
            found = encoder.encode([text], kind=test.kind).vectors[0]
        except Exception as error:
            # ONNX Runtime has kinds of error of its own, and finds some faults of a model when it first computes.
            raise EncoderError(f"{place}: self-test {test.text!r}: cannot be computed: {str(error)[:300]}") from None
        cosine = float(found @ np.array(test.vector, dtype=np.float32))
        if not cosine >= least:
            raise EncoderError(
                f"{place}: self-test {test.text!r}: expected a cosine of at least {least}, found {cosine:.4f}; "
                "the model or this machine's arithmetic differs, export the encoder again"
            )


def plan_batches(lengths: npt.NDArray[np.int64], budget: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield row numbers of equally long texts, shortest first, so that rows times length stay within the budget.

    A text longer than the budget forms a batch alone.
    """
    order = np.argsort(lengths, kind="stable")
    ordered = lengths[order]
    for start, end in pairwise([0, *(np.flatnonzero(np.diff(ordered)) + 1), len(order)]):
        size = max(1, budget // int(ordered[start:end].max(initial=1)))
        for first in range(start, end, size):
            yield order[first : min(first + size, end)]


def parse_description(data: bytes, place: str) -> EncoderDescription:
    """Read `encoder.json`; raises EncoderError naming the field that breaks the format."""
    record = parse_record(data, place, EncoderError)
    check_format(record, FORMAT)
    precision = record.text("precision")
    if precision not in MIN_SELF_TEST_COSINE:
        record.refuse("fp32 or int8", precision, "precision")
    dimension = record.integer("dimension", minimum=1)
    files = record.record("files")
    description = EncoderDescription(
        name=record.text("name"),
        precision=precision,
        dimension=dimension,
        query_tokens=record.integer("query_tokens", minimum=3),
        product_tokens=record.integer("product_tokens", minimum=3),
        text_fields=tuple(str(name) for name in record.values("text_fields")),
        text_separator=record.text("text_separator", empty=True),
        files={name: files.hash(name) for name in ENCODER_FILES if name != "encoder.json"},
        self_test=tuple(_read_self_test(item, dimension) for item in record.records("self_test")),
        parity=record.mapping("parity"),
    )
    files.finish()
    record.finish()
    if not description.self_test:
        record.refuse("at least one text with its vector", [], "self_test")
    return description


def _read_self_test(record: Record, dimension: int) -> SelfTest:
    kind = record.text("kind")
    if kind not in ("query", "product"):
        record.refuse("query or product", kind, "kind")
    vector = record.values("vector")
    if len(vector) != dimension or not all(type(number) in (int, float) for number in vector):
        record.refuse(f"{dimension} numbers", vector, "vector")
    test = SelfTest(kind=kind, text=record.text("text"), vector=tuple(float(number) for number in vector))
    record.finish()
    return test


def _check_width(session: onnxruntime.InferenceSession, dimension: int) -> None:
    found = next(item.shape[-1] for item in session.get_outputs() if item.name == "embedding")
    # A model may leave its width open; such a number is text.
    if isinstance(found, int) and found != dimension:
        raise EncoderError(
            f"encoder.onnx: expected vectors of dimension {dimension}, as encoder.json says, found {found}; export the "
            "encoder again"
        )


def _read_file(path: Path, most: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > most:
            raise EncoderError(f"{path}: {size} bytes, expected at most {most}; export the encoder again")
        return path.read_bytes()
    except OSError as error:
        reason = f"{path}: cannot be read: {error.strerror}"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise StoreError(f"{reason}; let the process open more files (`ulimit -n`)") from None
        raise EncoderError(f"{reason}; expected {', '.join(ENCODER_FILES)}") from None


@contextmanager
def _tokenizing() -> Iterator[None]:
    """Raise EncoderError for a panic of the tokenizer's library, which is no Exception."""
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise EncoderError(f"tokenizer.json: cannot be used: {error}") from None


def _open_tokenizer(data: bytes, limit: int) -> Tokenizer:
    try:
        with _tokenizing():
            tokenizer = Tokenizer.from_str(data.decode("utf-8"))
    except EncoderError:
        raise
    except Exception as error:
        raise EncoderError(f"tokenizer.json: cannot be used: {error}") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    return tokenizer


def _meaningless_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the tokens that frame every text, and the one for unknown words."""
    with _tokenizing():
        unknown = tokenizer.token_to_id(getattr(tokenizer.model, "unk_token", None) or "[UNK]")
        return frozenset(tokenizer.encode("").ids) | ({unknown} if unknown is not None else set())


def _open_session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # A run stays on the thread that asks for it: no waking and no waiting within products of a few hundred rows.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # Batches differ in shape, so a remembered memory pattern would never fit and only cost memory.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    # Weights outside the file have no hash; without this they would be read from the working directory.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NOWHERE)
    try:
        session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOW_FUSIONS
        )
    except Exception as error:
        raise EncoderError(f"encoder.onnx: cannot be used: {str(error)[:300]}") from None
    inputs = sorted(item.name for item in session.get_inputs())
    outputs = [item.name for item in session.get_outputs()]
    if inputs != ["attention_mask", "input_ids"] or "embedding" not in outputs:
        raise EncoderError(
            "encoder.onnx: expected inputs input_ids and attention_mask and the output embedding, "
            f"found {inputs} and {outputs}"
        )
    return session
