"""A sealed shard's probe as one file of plain arrays, for the builds that take the shard as it is."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from indexer.build.recall import Hits, Name, Probe, Scores
from indexer.errors import IntegrityError

MAX_UNPACKED_BYTES = 2 << 30
"""Some 16 KB a query and the names of its hits: enough for 50,000 queries."""
NO_TEXT = "\0"
"""Stands for the text of a row whose release carries none; texts hold no control characters."""


def write_probe(path: Path, probe: Probe) -> None:
    """Write a probe; `SealedShard.format` counts the layouts of this file, too."""
    names = [(name, NO_TEXT if text is None else text) for name, text in probe.names]
    arrays: dict[str, Any] = {
        "sampled": np.array(probe.sampled),
        "exact": probe.exact,
        "rungs": np.array(probe.rungs, dtype=np.int64),
        "seconds": np.stack([probe.seconds[rung] for rung in probe.rungs]),
        "ids": _write_texts([name for name, _ in names]),
        "texts": _write_texts([text for _, text in names]),
    }
    for kind, found in (("narrow", probe.narrow), ("wide", probe.wide)):
        arrays[f"{kind}_rungs"] = np.array(sorted(found), dtype=np.int64)
        for column in Hits._fields:
            arrays[f"{kind}_{column}"] = np.stack([getattr(found[rung], column) for rung in sorted(found)])
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_probe(path: Path) -> Probe:
    """Read a probe; raises IntegrityError where the file is not one, before it takes more memory than one may."""
    try:
        with ZipFile(path) as packed:
            unpacked = sum(item.file_size for item in packed.infolist())
        if unpacked > MAX_UNPACKED_BYTES:
            raise ValueError(f"{unpacked} bytes unpacked, expected at most {MAX_UNPACKED_BYTES}")
        with np.load(path, allow_pickle=False) as arrays:
            return Probe(
                sampled=int(arrays["sampled"]),
                exact=arrays["exact"],
                narrow=_read_hits(arrays, "narrow"),
                wide=_read_hits(arrays, "wide"),
                seconds=dict(zip(arrays["rungs"].tolist(), arrays["seconds"], strict=True)),
                names=_read_names(arrays["ids"], arrays["texts"]),
            )
    except (KeyError, ValueError, OSError, TypeError, EOFError, MemoryError, BadZipFile, zlib.error) as error:
        raise IntegrityError(f"{path}: no probe of this program: {error}; build with --reuse none") from None


def _read_hits(arrays: Mapping[str, Any], kind: str) -> dict[int, Hits]:
    columns = [arrays[f"{kind}_{column}"] for column in Hits._fields]
    return {rung: Hits(*(column[at] for column in columns)) for at, rung in enumerate(arrays[f"{kind}_rungs"].tolist())}


def _read_names(ids: Scores, texts: Scores) -> tuple[Name, ...]:
    pairs = zip(_read_texts(ids), _read_texts(texts), strict=True)
    return tuple((name, None if text == NO_TEXT else text) for name, text in pairs)


def _write_texts(texts: list[str]) -> Any:
    return np.frombuffer("".join(f"{text}\n" for text in texts).encode(), dtype=np.uint8)


def _read_texts(data: Any) -> list[str]:
    return str(data.tobytes(), "utf-8").split("\n")[:-1]
