"""What is fuzzed: each reader of bytes from outside, which may raise the project's own errors and nothing else."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from indexer.build.catalogue import as_batch, product_row
from indexer.canaries import parse_canaries
from indexer.config_file import load_config
from indexer.contracts import schemas
from indexer.contracts.inputs import open_input
from indexer.encoder import parse_description
from indexer.errors import IndexerError
from indexer.index_file import IndexShape, read_index
from indexer.input_config import CatalogueConfig
from indexer.log import parse_entry, write_entry
from indexer.manifest import parse_manifest, write_manifest
from indexer.onnx_file import DOMAINS, check_model
from indexer.shard_search import search_shard

CORPUS = Path(__file__).parent / "corpus"
FORMATS = ("csv", "tsv", "jsonl", "csv.gz")
"""Of catalogues, chosen by the first byte of an input."""
SHAPES = {
    0: IndexShape(rows=9, dimension=4, m=2, storage="flat"),
    1: IndexShape(rows=9, dimension=4, m=2, storage="sq8"),
    2: IndexShape(rows=9, dimension=4, m=2, storage="sqfp16"),
}
"""Of indexes, chosen by the first byte of an input."""


def try_manifest(data: bytes) -> None:
    """Parse a manifest; what is read can be written and read again as the same."""
    manifest = parse_manifest(data, "fuzz")
    assert parse_manifest(write_manifest(manifest), "fuzz") == manifest


def try_entry(data: bytes) -> None:
    """Parse a log entry; what is read can be written and read again as the same."""
    entry = parse_entry(data, "fuzz", 3)
    assert parse_entry(write_entry(entry), "fuzz", 3) == entry


def try_config(data: bytes) -> None:
    """Load a configuration."""
    load_config(str(_write(data, "shop.toml")), environment={})


def try_catalogue(data: bytes) -> None:
    """Read a catalogue to rows of an index."""
    if not data:
        return
    kind = FORMATS[data[0] % len(FORMATS)]
    path = _write(data[1:], f"catalogue.{kind}")
    source = CatalogueConfig(path=str(path), max_reject_share=1.0)
    for batch in open_input(schemas.CATALOGUE, source):
        rows = [product_row(row, fields=("title", "brand"), separator=" | ") for row in batch.to_pylist()]
        if rows:
            as_batch(rows)
        assert all(row.id and "\n" not in row.id + row.display for row in rows)


def try_index(data: bytes) -> None:
    """Check an index file; one that passes is searched as a consumer does."""
    if not data:
        return
    shape = SHAPES[data[0] % len(SHAPES)]
    index = read_index(_write(data[1:], "index.faiss"), shape)
    _, rows = search_shard(index, np.eye(shape.dimension, dtype=np.float32), 4, 16)
    assert ((rows >= -1) & (rows < shape.rows)).all()


def try_model(data: bytes) -> None:
    """Check an ONNX file; in one that passes the `onnx` package finds nothing that is refused either."""
    check_model(data, "fuzz")
    check_by_package(data)


def check_by_package(data: bytes) -> None:
    """Assert by the `onnx` package that a model needs nothing but itself; one that it cannot parse needs nothing."""
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        return
    assert not model.functions
    assert not model.training_info
    _check_graph(model.graph)


def try_encoder(data: bytes) -> None:
    """Parse the description of an encoder."""
    parse_description(data, "fuzz")


def try_canaries(data: bytes) -> None:
    """Parse a file of canaries."""
    parse_canaries(data, "fuzz")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "manifest": try_manifest,
    "log-entry": try_entry,
    "config": try_config,
    "catalogue": try_catalogue,
    "index": try_index,
    "model": try_model,
    "encoder": try_encoder,
    "canaries": try_canaries,
}


def run_target(name: str, data: bytes) -> None:
    """Give the bytes to a target; an error of the project is an answer like any."""
    try:
        TARGETS[name](data)
    except IndexerError:
        return


def list_corpus(name: str) -> list[Path]:
    """Return the inputs that are kept of a target."""
    return sorted((CORPUS / name).iterdir())


def _check_graph(graph: Any) -> None:
    tensors = [*graph.initializer]
    tensors += [part for sparse in graph.sparse_initializer for part in (sparse.values, sparse.indices)]
    for node in graph.node:
        assert node.domain.encode() in DOMAINS
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.tensors]
            tensors += [
                part
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors)
                for part in (sparse.values, sparse.indices)
            ]
            for inner in (attribute.g, *attribute.graphs):
                _check_graph(inner)
    assert not any(tensor.external_data or tensor.data_location for tensor in tensors)


def _write(data: bytes, name: str) -> Path:
    """Write an input to a file in memory, the same one each time."""
    path = _folder() / name
    path.write_bytes(data)
    return path


_folders: dict[int, Path] = {}


def _folder() -> Path:
    if os.getpid() not in _folders:
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        _folders[os.getpid()] = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory))
        faiss.omp_set_num_threads(1)
    return _folders[os.getpid()]
