"""Vectors for `benchmarks/build.py`: of real texts, with copies or crowds of copies among them, and random ones."""

import csv
import gzip
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

LAYERS = (0, 3, 5)
LIMITS = {"query_tokens": 32, "product_tokens": 96}
QUERIES = 1_000
COPIES = 0.05
CROWDS, CROWD = 20, 200
"""Vectors that stand so many times among the others: more often than a node has links."""
JITTER = 0.25
"""Length of the noise of a vector that stands beside a real one."""
TEXT_FIELDS = ("title", "name", "short_description", "description", "bullet_points", "query")
SHORTEST, LONGEST = 8, 400
SHAPES = ("texts", "copies", "crowds", "random")

Vectors = npt.NDArray[np.float32]


def find_texts(folder: Path) -> list[str]:
    """Return the distinct texts of all catalogues and query lists below a folder, in a random order."""
    found = {text[:LONGEST]: None for path in sorted(folder.rglob("*")) for text in _read_texts(path)}
    texts = [text for text in found if len(text) >= SHORTEST]
    return [texts[place] for place in np.random.default_rng(0).permutation(len(texts))]


def embed_texts(texts: list[str], encoder: str, folder: Path) -> Vectors:
    """Return unit vectors of texts, kept in the folder; without an encoder by three layers of the packaged model."""
    kept = folder / f"vectors-{len(texts)}.npy"
    if not kept.exists():
        from indexer.encoder import open_encoder

        with tempfile.TemporaryDirectory() as made:
            directory = Path(encoder) if encoder else _export(Path(made))
            vectors = open_encoder(directory, threads=0).encode(texts, kind="product").vectors
        distinct = np.unique(vectors, axis=0)
        np.save(kept, distinct[np.random.default_rng(1).permutation(len(distinct))])
    found: Vectors = np.load(kept)
    return found


def make_vectors(shape: str, real: Vectors, rows: int) -> tuple[Vectors, Vectors]:
    """Return base vectors (rows, d) and queries (QUERIES, d) of one shape; no query is a base row.

    Beyond the real ones, vectors are real ones with noise of their covariance.
    """
    rng = np.random.default_rng(2)
    dimension = real.shape[1]
    if shape == "random":
        drawn = rng.standard_normal((rows + QUERIES, dimension), dtype=np.float32)
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        return drawn[:rows], drawn[rows:]
    queries, base = real[:QUERIES], real[QUERIES:]
    if rows > len(base):
        base = np.concatenate([base, _jitter(rng, base, rows - len(base))])
    base = base[:rows].copy()
    if shape == "copies":
        places = rng.choice(rows, round(COPIES * rows), replace=False)
        base[places] = base[rng.integers(0, rows, len(places))]
    if shape == "crowds":
        places = rng.choice(rows, CROWDS * CROWD, replace=False)
        base[places] = np.repeat(base[places[:CROWDS]], CROWD, axis=0)
    return base, queries


def _jitter(rng: np.random.Generator, base: Vectors, rows: int) -> Vectors:
    _, values, directions = np.linalg.svd(base[:20_000] - base[:20_000].mean(axis=0), full_matrices=False)
    spread = (values / np.linalg.norm(values)).astype(np.float32)
    found = np.empty((rows, base.shape[1]), dtype=np.float32)
    for start in range(0, rows, 50_000):
        part = found[start : start + 50_000]
        noise = rng.standard_normal(part.shape, dtype=np.float32) * spread @ directions.astype(np.float32)
        part[:] = base[rng.integers(0, len(base), len(part))] + JITTER * noise
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return found


def _export(folder: Path) -> Path:
    from indexer.distill.encoders import PACKAGED_MODEL, open_model
    from indexer.distill.export import ExportSettings, export_encoder

    encoder = open_model(PACKAGED_MODEL, **LIMITS, layers=LAYERS)
    settings = ExportSettings(name="build", text_fields=("title",), text_separator=" | ", min_parity=0.999)
    export_encoder(encoder, folder / "encoder", precision="fp32", settings=settings, sample=["red sofa", "steel cup"])
    return folder / "encoder"


def _read_texts(path: Path) -> Iterator[str]:
    opened: Any = gzip.open if path.suffix == ".gz" else open
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind not in ("jsonl", "json", "tsv", "csv") or not path.is_file():
        return
    with opened(path, "rt", encoding="utf-8", newline="") as file:
        if kind == "jsonl":
            records: Any = map(json.loads, file)
        elif kind == "json":
            loaded = json.load(file)
            records = loaded if isinstance(loaded, list) else []
        else:
            records = csv.DictReader(file, delimiter="\t" if kind == "tsv" else ",")
        for record in records:
            values = [record.get(field) for field in TEXT_FIELDS] if isinstance(record, dict) else []
            for value in values:
                yield from (" ".join(part.split()) for part in (value if isinstance(value, list) else [value]) if part)
