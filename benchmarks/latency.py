"""One query at a time, tokenising included: the exported student against sentence-transformers' encode.

Every contender runs in a process of its own, in rounds of changing order, on the same distinct queries. All vectors
are compared with those of a third way (transformers and a mean in numpy), or the run fails: least cosine 0.999 in fp32,
mean cosine 0.98 in int8. What is claimed are ratios of one round; the median over the rounds is printed with the
least and the greatest. The loop is closed: the next query comes when the last one is answered.

--threads prints a table per number of threads that a contender is given, by default one thread. The baseline alone uses
more for one query: the exported student stays on the thread that asks.

    python benchmarks/latency.py
    python benchmarks/latency.py --student work/distill/run_date=.../attempt=.../student --rounds 5
    python benchmarks/latency.py --queries queries.tsv --number 5000 --threads 1 2

Without --student it is layers 0, 3 and 5 of all-MiniLM-L6-v2, untrained: training changes no time.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import print_machine
from benchmarks.processes import run_watched

BASELINE = "sentence-transformers"
CONTENDERS = (BASELINE, "exported fp32", "exported int8")
PAPER_MS = 1.22
"""KD-Boost section 5: a MiniLM of 3 layers by ONNX in Java on an m5.4xlarge."""
LAYERS = (0, 3, 5)
LIMITS = {"query_tokens": 32, "product_tokens": 96}
WARM_UP = 200
WORDS_PER_QUERY = (0.04, 0.22, 0.3, 0.22, 0.12, 0.1)
"""Shares of generated queries of 1 to 6 words, about those of ESCI."""
PERCENTILES = (50, 95, 99)

Vectors = npt.NDArray[np.float32]


def prepare(folder: Path, student: str, queries: str, number: int) -> None:
    """Write the student, its two exports, and the queries."""
    from indexer.distill.encoders import PACKAGED_MODEL, open_model
    from indexer.distill.export import ExportSettings, Precision, export_encoder

    encoder = open_model(student or PACKAGED_MODEL, **LIMITS, layers=() if student else LAYERS)
    encoder.save(folder / "student")
    texts = read_queries(queries, number) if queries else make_queries(number)
    precisions: tuple[tuple[Precision, float], ...] = (("fp32", 0.999), ("int8", 0.9))
    for precision, least in precisions:
        settings = ExportSettings(name="latency", text_fields=("title",), text_separator=" ", min_parity=least)
        export_encoder(encoder, folder / precision, precision=precision, settings=settings, sample=texts[:64])
    (folder / "queries.json").write_text(json.dumps(texts))


def make_queries(number: int) -> list[str]:
    """Return distinct queries of shop words, each with a word of its own, so that nothing could be remembered."""
    from indexer.demo.vocabulary import BRANDS, COLORS, FEATURES, KINDS

    phrases = (*BRANDS, *COLORS, *FEATURES, *(name for kind in KINDS for name in kind.names))
    words = sorted({word.lower() for phrase in phrases for word in phrase.split()})
    rng = np.random.default_rng(0)
    lengths = rng.choice(np.arange(1, 7), size=number, p=WORDS_PER_QUERY)
    return [" ".join([*rng.choice(words, length - 1), f"{row:x}"]) for row, length in enumerate(lengths)]


def read_queries(file: str, number: int) -> list[str]:
    """Return the first distinct queries of a file, its first column."""
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(line.split("\t")[0].strip().lower() for line in lines if line.strip()))[:number]


def open_contender(name: str, folder: Path, threads: int) -> Callable[[str], Vectors]:
    """Return what turns one query into its vector, on so many threads."""
    if name == BASELINE:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        model = SentenceTransformer(str(folder / "student"), device="cpu")
        return lambda query: model.encode([query], show_progress_bar=False)[0]
    from indexer.encoder import open_encoder

    encoder = open_encoder(folder / name.removeprefix("exported "), threads=threads)
    return lambda query: encoder.encode_queries([query])[0]


def run_contender(name: str, folder: Path, threads: int) -> dict[str, Any]:
    """Answer every query once after the warm-up; returns milliseconds by query, and writes the vectors."""
    queries = json.loads((folder / "queries.json").read_text())
    encode = open_contender(name, folder, threads)
    for row in range(WARM_UP):
        encode(f"{queries[row % len(queries)]} warm")
    vectors, times = [], []
    spent = time.process_time()
    for query in queries:
        started = time.perf_counter_ns()
        vectors.append(encode(query))
        times.append((time.perf_counter_ns() - started) / 1e6)
    spent = time.process_time() - spent
    np.save(folder / f"{name}.npy", np.stack(vectors))
    return {"times": times, "cpu_ms": spent / len(queries) * 1e3}


def reference_vectors(folder: Path) -> Vectors:
    """Return the vectors by transformers alone, 64 queries at a time, pooled in numpy."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    queries = json.loads((folder / "queries.json").read_text())
    tokenizer, model = (kind.from_pretrained(folder / "student") for kind in (AutoTokenizer, AutoModel))
    found = []
    for start in range(0, len(queries), 64):
        batch = tokenizer(
            queries[start : start + 64],
            padding=True,
            truncation=True,
            max_length=LIMITS["query_tokens"],
            return_tensors="pt",
        )
        with torch.no_grad():
            states = model.eval()(**batch).last_hidden_state.numpy()
        mask = batch["attention_mask"].numpy()[:, :, None]
        found.append((states * mask).sum(1) / mask.sum(1))
    vectors = np.concatenate(found)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def check(name: str, vectors: Vectors, reference: Vectors) -> tuple[float, float]:
    """Return mean and least cosine with the reference; ends the run where they are too low."""
    cosines = (vectors * reference).sum(1)
    mean, least = float(cosines.mean()), float(cosines.min())
    if mean < 0.98 or (not name.endswith("int8") and least < 0.999):
        raise SystemExit(f"{name}: mean cosine {mean:.4f}, least {least:.4f}: these are not the same vectors")
    return mean, least


def main() -> None:
    """Parse the command line and print a table per number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="", help="folder of sentence-transformers")
    parser.add_argument("--queries", default="", help="file of queries, one per line, or the first column of a TSV")
    parser.add_argument("--number", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="threads of a query, one table for each")
    parser.add_argument("--contender", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.threads) < 1:
        parser.error(f"--threads: expected 1 at least, found {min(options.threads)}")
    if options.contender:
        name, folder = options.contender
        print(json.dumps(run_contender(name, Path(folder), options.threads[0])))
        return
    print_machine("sentence-transformers", "torch", "onnxruntime", "tokenizers", "numpy")
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), options.student, options.queries, options.number)
        for threads in options.threads:
            _compare(Path(folder), options.rounds, threads)


def _compare(folder: Path, rounds: int, threads: int) -> None:
    # A contender's process reads it when it starts.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    for number in range(rounds):
        for name in CONTENDERS if number % 2 == 0 else CONTENDERS[::-1]:
            command = [sys.executable, __file__, "--contender", name, str(folder), "--threads", str(threads)]
            output, _ = run_watched(command)
            runs[name].append(json.loads(output.splitlines()[-1]))
    reference = reference_vectors(folder)
    used = "one thread" if threads == 1 else f"{threads} threads"
    print(f"{len(reference)} queries, {used}, {rounds} rounds; the paper's 3-layer MiniLM: {PAPER_MS} ms")
    head = "".join(f"{f'p{place} ms':>9} {'ratio (least to greatest)':>27}" for place in PERCENTILES)
    print(f"{'contender':22}{head} {'CPU ms':>7} {'mean cos':>9} {'least cos':>9}")
    for name in CONTENDERS:
        mean, least = check(name, np.load(folder / f"{name}.npy"), reference)
        cells = "".join(_describe(runs[name], runs[BASELINE], place) for place in PERCENTILES)
        spent = statistics.median(run["cpu_ms"] for run in runs[name])
        print(f"{name:22}{cells} {spent:7.2f} {mean:9.5f} {least:9.5f}", flush=True)


def _describe(runs: list[dict[str, Any]], baseline: list[dict[str, Any]], place: int) -> str:
    """Return the median percentile, and that of the baseline divided by it, round by round."""
    own, other = ([float(np.percentile(run["times"], place)) for run in side] for side in (runs, baseline))
    ratios = [theirs / mine for mine, theirs in zip(own, other, strict=True)]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"{statistics.median(own):9.3f} {ratio:>27}"


if __name__ == "__main__":
    main()
