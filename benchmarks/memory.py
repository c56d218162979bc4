"""Peak memory of a build over the size of the catalogue, beside what its plan expected.

Each build is `indexer build` in a process of its own, from nothing, of generated products with titles of about 29
tokens, by a student of three layers; the peak is the resident memory of the process and all that it starts. The run
fails where a build needs more than --limit, or more than --tolerance times what was expected.

    python benchmarks/memory.py
    python benchmarks/memory.py --products 10000 --limit 1
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import print_machine
from benchmarks.nights import build, export_student, make_title, write_shop


def main() -> None:
    """Parse the command line and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", nargs="+", type=int, default=[10_000, 100_000, 500_000])
    parser.add_argument("--shards", type=int, default=0, help="as index.shards")
    parser.add_argument("--limit", type=float, default=4.0, help="GiB")
    parser.add_argument("--tolerance", type=float, default=1.3)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    print_machine("faiss-cpu", "onnxruntime", "tokenizers", "numpy")
    print(f"{'products':>9} {'shards':>6} {'seconds':>8} {'peak MiB':>9} {'expected':>9} {'recall@10':>9}")
    for products in options.products:
        with tempfile.TemporaryDirectory() as folder:
            _run(Path(folder), products, options)


def _run(folder: Path, products: int, options: argparse.Namespace) -> None:
    rng = np.random.default_rng(3)
    write_shop(folder, {f"P{number:07d}": make_title(rng, number) for number in range(products)}, options.shards)
    export_student(folder / "encoder")
    built = build(folder, 0)
    figures, expected = built.figures, built.expected
    print(
        f"{products:9,} {figures['shards']:6} {built.seconds:8.1f} {built.peak / 2**20:9,.0f} {expected / 2**20:9,.0f} "
        f"{figures['recall_10']:9.4f}",
        flush=True,
    )
    if figures["rows"] != products:
        raise SystemExit(f"{figures['rows']} rows of {products} were indexed")
    if built.peak > min(options.limit * 2**30, options.tolerance * expected):
        raise SystemExit(f"the peak of {built.peak / 2**20:,.0f} MiB is more than allowed")


if __name__ == "__main__":
    main()
