"""Nights of few changes: what they cost beside a full build, and what ten of them do to recall.

A first release of --products generated products in --shards shards; then --nights nights, each with a part --share of
the products changed, dropped and added at random; then a night without a change, a build from nothing of the last
night, and a compaction. Each build runs in a process of its own. Printed are seconds from start to end of the command,
the bytes of new objects in the store, and recall@10 and @100 of the live release against exact search over all of
tonight's products, measured by code of this file: the encoder's vectors, the reader's hits.

The run fails unless every night's release holds exactly tonight's ids with tonight's texts, and recall stays within
--tolerance of the full build's.

    python benchmarks/nights.py
    python benchmarks/nights.py --products 20000 --shards 4 --nights 3
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import print_machine
from benchmarks.processes import run_watched
from indexer.demo.vocabulary import BRANDS, COLORS, FEATURES, KINDS, SIZES

LAYERS = (0, 3, 5)
LIMITS = {"query_tokens": 32, "product_tokens": 96}
FIRST = np.datetime64("2026-01-01")
QUERIES = 500
WORDS = 18
"""Words of a title on average, for about 29 tokens, those of Amazon's titles."""

Products = dict[str, str]


@dataclass(frozen=True)
class Built:
    """One build of a night."""

    status: str
    seconds: float
    bytes: int
    peak: int
    figures: dict[str, Any]
    """Those of the products; none where nothing was built."""
    expected: int
    """The peak that the plan expected."""


def make_title(rng: np.random.Generator, serial: int) -> str:
    """Return a title of shop words with a word of its own."""
    phrases = (*FEATURES, *COLORS, *SIZES, *(name for kind in KINDS for name in kind.names))
    words = [str(rng.choice(BRANDS)), *(str(word) for word in rng.choice(phrases, rng.integers(6, WORDS - 2)))]
    return f"{' '.join(words)} {serial:x}"


def edit(products: Products, rng: np.random.Generator, share: float, night: int) -> Products:
    """Give a part of the products another title; drop a tenth as many, and add as many."""
    names, found = sorted(products), dict(products)
    changed = rng.choice(len(names), round(share * len(names)), replace=False)
    for place in changed:
        found[names[place]] = make_title(rng, int(place) + night * len(names))
    for number, place in enumerate(changed[: len(changed) // 10]):
        del found[names[place]]
        found[f"N{night:02d}-{number:06d}"] = make_title(rng, number + (night + 1_000) * len(names))
    return found


def write_shop(folder: Path, products: Products, shards: int) -> None:
    """Write the catalogue and the configuration."""
    with (folder / "catalogue.jsonl").open("w") as file:
        for name, title in sorted(products.items()):
            file.write(json.dumps({"product_id": name, "title": title}) + "\n")
    (folder / "shop.toml").write_text(
        f'[shop]\nwork = "work"\nrelease = "release"\n[catalogue]\npath = "catalogue.jsonl"\n'
        # One efSearch for all nights, so that their recalls compare.
        f'text_fields = ["title"]\n[index]\nshards = {shards}\nef_search = 128\n'
    )


def export_student(folder: Path) -> None:
    """Export three layers of the packaged model; training changes no time."""
    from indexer.distill.encoders import PACKAGED_MODEL, open_model
    from indexer.distill.export import ExportSettings, export_encoder

    encoder = open_model(PACKAGED_MODEL, **LIMITS, layers=LAYERS)
    settings = ExportSettings(name="nights", text_fields=("title",), text_separator=" | ", min_parity=0.999)
    export_encoder(encoder, folder, precision="fp32", settings=settings, sample=["red sofa", "steel cup"])


def build(folder: Path, night: int, *options: str) -> Built:
    """Run `indexer build` of a night."""
    before = sum(path.stat().st_size for path in (folder / "release").rglob("*") if path.is_file())
    started = time.monotonic()
    program = [sys.executable, "-c", "from indexer.cli import main; main()", "build"]
    place = ["--config", str(folder / "shop.toml"), "--run-date", str(FIRST + night)]
    output, peaks = run_watched([*program, *place, "--encoder", str(folder / "encoder"), "--json", *options])
    seconds = time.monotonic() - started
    after = sum(path.stat().st_size for path in (folder / "release").rglob("*") if path.is_file())
    summary = json.loads(output)
    (figures,) = summary["collections"] or [{}]
    expected = summary["plan"].get("peak_bytes", 0)
    return Built(summary["status"], seconds, after - before, peaks["python"], figures, expected)


def check(folder: Path, products: Products, vectors: dict[str, np.ndarray[Any, Any]]) -> tuple[float, float]:
    """Return recall@10 and @100 of the live release; ends the run where it does not hold tonight's products."""
    from indexer.reader import open_index

    index = open_index(str(folder / "release"), threads=0)
    shards = index._release.shards["products"]
    entry = index._release.manifest.collections[0]
    found: Products = {}
    for shard, listed in zip(shards, entry.shards, strict=True):
        dead: set[int] = set()
        if listed.dead:
            dead = set(np.fromfile(folder / "release" / listed.dead.rows.key, dtype="<u4").tolist())
        for row in range(len(shard.ids)):
            if row not in dead:
                if shard.id(row) in found:
                    raise SystemExit(f"{shard.id(row)} is found twice")
                found[shard.id(row)] = shard.text(row) or ""
    if found != products:
        raise SystemExit(f"the release holds other products: {len(found)} of {len(products)}")
    rng = np.random.default_rng(7)
    queries = [" ".join(title.split()[:4]) for title in rng.choice(sorted(products.values()), QUERIES)]
    names = sorted(products)
    missing = [name for name in names if products[name] not in vectors]
    if missing:
        encoded = index._release.encoder.encode_products([products[name] for name in missing])
        vectors.update({products[name]: vector for name, vector in zip(missing, encoded, strict=True)})
    scores = index._release.encoder.encode_queries(queries) @ np.stack([vectors[products[name]] for name in names]).T
    recalls = []
    for depth in (10, 100):
        last = -np.partition(-scores, depth - 1, axis=1)[:, depth - 1]
        hits = index.search_batch(queries, "products", depth)
        good = [sum(hit.score >= least - 1e-5 for hit in line) for line, least in zip(hits, last, strict=True)]
        recalls.append(sum(good) / (depth * len(queries)))
    return recalls[0], recalls[1]


def main() -> None:
    """Parse the command line and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--nights", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--tolerance", type=float, default=0.005)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    print_machine("faiss-cpu", "onnxruntime", "tokenizers", "numpy")
    with tempfile.TemporaryDirectory() as folder:
        _run(Path(folder), options)


def _run(folder: Path, options: argparse.Namespace) -> None:
    rng = np.random.default_rng(3)
    products = {f"P{number:07d}": make_title(rng, number) for number in range(options.products)}
    export_student(folder / "encoder")
    vectors: dict[str, np.ndarray[Any, Any]] = {}
    print(
        f"{options.products} products, {options.shards} shards, {options.share:.2%} changed a night\n"
        f"{'night':>16} {'seconds':>8} {'of full':>8} {'MiB new':>8} {'of full':>8} {'GiB':>5} {'embedded':>9} "
        f"{'shards':>6} {'built':>5} {'dead':>7} {'recall@10':>10} {'recall@100':>10}"
    )
    write_shop(folder, products, options.shards)
    first = build(folder, 0)
    _print("first", first, first, check(folder, products, vectors))
    found, nights = [], []
    for night in range(1, options.nights + 1):
        products = edit(products, rng, options.share, night)
        write_shop(folder, products, options.shards)
        built = build(folder, night)
        nights.append(built)
        found.append(check(folder, products, vectors))
        _print(f"night {night}", built, first, found[-1])
    same = build(folder, options.nights + 1)
    print(f"without a change: {same.status}, {same.seconds:.1f} s, {same.bytes} new bytes")
    full = build(folder, options.nights + 2, "--reuse", "none")
    fresh = check(folder, products, vectors)
    _print("from nothing", full, first, fresh)
    compacted = build(folder, options.nights + 3, "--reuse", "vectors")
    _print("compaction", compacted, first, check(folder, products, vectors))
    lost = max(best - worst for best, worst in zip(fresh, np.min(found, axis=0), strict=True))
    for name in ("seconds", "bytes"):
        shares = [getattr(built, name) / getattr(first, name) for built in nights]
        print(f"{name} of a night, of the full build's: mean {np.mean(shares):.1%}, most {max(shares):.1%}")
    print(f"recall lost over the nights, at most: {lost:.4f}")
    if lost > options.tolerance:
        raise SystemExit(f"recall fell by {lost:.4f}, more than {options.tolerance}")


def _print(name: str, built: Built, first: Built, recall: tuple[float, float]) -> None:
    figures = built.figures
    print(
        f"{name:>16} {built.seconds:8.1f} {built.seconds / first.seconds:8.1%} {built.bytes / 2**20:8.1f} "
        f"{built.bytes / first.bytes:8.1%} {built.peak / 2**30:5.2f} {figures['embedded']:9,} {figures['shards']:6} "
        f"{figures['built']:5} {figures['dead_rows']:7,} {recall[0]:10.4f} {recall[1]:10.4f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
