"""Texts to vectors, tokenising included: the exported student against sentence-transformers and plain onnxruntime.

All contenders have the same weights, token limit and number of threads. Each runs in a process of its own, in rounds
of changing order, from a list of texts to a file of float32; the texts of a round are new (each carries a salt of the
run and its number), all different, and in no order of length. sentence-transformers has the best of five batch sizes,
found before the rounds unless it is given. All vectors of the last round are compared with those of a third way
(transformers and a mean in numpy), or the run fails: least cosine 0.999 in fp32, mean cosine 0.98 in bf16 and int8.

What is claimed are ratios to sentence-transformers fp32, round by round: the median with 95 % of a bootstrap over the
rounds, by the clock and by processor seconds, which others on the machine disturb less. `roof` is the arithmetic of
the texts' own tokens as a share of the best matrix product that the machine shows in that precision.

    python benchmarks/encode.py
    python benchmarks/encode.py --texts catalogue.jsonl.gz --fields title,brand --threads 2 --rounds 5
    python benchmarks/encode.py --trained work/.../attempt=... --texts catalogue.jsonl.gz --labels labels.tsv
    python benchmarks/encode.py --memory 10000,50000

Without --trained it is layers 0, 3 and 5 of all-MiniLM-L6-v2, untrained: training changes no time. --labels adds the
NDCG@10 of the judged pairs.
"""

import argparse
import json
import os
import secrets
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.encode_contenders import (
    CONTENDERS,
    TORCH_BF16,
    TORCH_FP32,
    find_batch,
    limit_threads,
    measure_memory,
    open_contender,
    probe_products,
    time_contender,
)
from benchmarks.machine import print_machine
from benchmarks.processes import run_watched

LAYERS = (0, 3, 5)
DRAWS = 10_000
SWEEP_TEXTS = 256

Floats = npt.NDArray[np.float64]


def prepare(options: argparse.Namespace) -> None:
    """Write the student and its two exports, trained or cut here, and the texts that the rounds are made of."""
    folder = options.folder
    limits = {"query_tokens": 32, "product_tokens": options.product_tokens}
    (folder / "texts.json").write_text(json.dumps(read_texts(options)))
    if options.trained:
        for ours, theirs in (("student", "student"), ("fp32", "encoder-fp32"), ("int8", "encoder-int8")):
            shutil.copytree(Path(options.trained) / theirs, folder / ours)
        return
    from indexer.distill.encoders import PACKAGED_MODEL, open_model
    from indexer.distill.export import ExportSettings, Precision, export_encoder

    encoder = open_model(PACKAGED_MODEL, **limits, layers=LAYERS)
    encoder.save(folder / "student")
    precisions: tuple[tuple[Precision, float], ...] = (("fp32", 0.999), ("int8", 0.9))
    for precision, least in precisions:
        settings = ExportSettings(name="encode", text_fields=options.fields, text_separator=" | ", min_parity=least)
        sample = read_texts(options)[:64]
        export_encoder(encoder, folder / precision, precision=precision, settings=settings, sample=sample)


def read_texts(options: argparse.Namespace) -> list[str]:
    """Return different product texts of a catalogue, or titles of the generated shop."""
    if options.texts:
        from indexer.distill.judgements import sample_product_texts
        from indexer.input_config import CatalogueConfig

        catalogue = CatalogueConfig(path=options.texts, text_fields=options.fields)
        return sample_product_texts(catalogue, limit=options.number, seed=0, known=())
    from indexer.demo.shop import DemoConfig, make_products

    products = make_products(np.random.default_rng(0), DemoConfig())
    return list(dict.fromkeys(product.title for product in products))[: options.number]


def salt_texts(texts: list[str], number: int, salt: str, round_: int) -> list[str]:
    """Return so many different texts, shuffled, which no earlier run or round has seen."""
    rng = np.random.default_rng(round_)
    rows = rng.permutation(number)
    return [f"{texts[row % len(texts)]} {salt}{round_}{row:x}" for row in rows]


def run_contender(options: argparse.Namespace) -> dict[str, Any]:
    """Do what a process of its own is started for."""
    folder, threads = options.folder, options.threads
    if options.contender == "probe":
        return probe_products(threads)
    texts = json.loads((folder / "round.json").read_text())
    if options.contender.startswith("memory"):
        _, precision, number = options.contender.split()
        return measure_memory(folder / precision, texts, int(number), threads)
    settings = {"threads": threads, "product_tokens": options.product_tokens}
    task, _, name = options.contender.partition(" ")
    if task == "sweep":
        return {"batch": find_batch(name, folder, texts, **settings)}
    encode = open_contender(options.contender, folder, batch=options.batch, **settings)
    return time_contender(encode, texts, folder / f"{options.contender}.npy")


def measure(name: str, options: argparse.Namespace, batch: int = 0) -> dict[str, Any]:
    """Run a contender in a process of its own; adds the peak memory."""
    given = {"folder": options.folder, "threads": options.threads, "batch": batch}
    given["product-tokens"] = options.product_tokens
    command = [sys.executable, __file__, "--contender", name, *(f"--{key}={value}" for key, value in given.items())]
    output, peaks = run_watched(command)
    return {**json.loads(output.splitlines()[-1]), **peaks}


def count_tokens(options: argparse.Namespace, texts: list[str]) -> Floats:
    """Return the tokens of each text, as the limit cuts it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(options.folder / "fp32" / "tokenizer.json"))
    tokenizer.enable_truncation(options.product_tokens)
    return np.array([len(item.ids) for item in tokenizer.encode_batch_fast(texts)], dtype=np.float64)


def count_operations(options: argparse.Namespace, tokens: Floats) -> float:
    """Return GFLOP of the layers' products: per token and layer 8 H^2 + 4 H F, and 4 H L for attention."""
    config = json.loads((options.folder / "student" / "config.json").read_text())
    layers, width, inner = (config[name] for name in ("num_hidden_layers", "hidden_size", "intermediate_size"))
    dense = 8 * width**2 + 4 * width * inner
    return 1e-9 * layers * float((tokens * (dense + 4 * width * tokens)).sum())


def reference_vectors(options: argparse.Namespace, texts: list[str]) -> npt.NDArray[np.float32]:
    """Return the vectors by transformers alone, 32 texts of like length at a time, pooled in numpy."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = options.folder / "student"
    tokenizer, model = (kind.from_pretrained(folder) for kind in (AutoTokenizer, AutoModel))
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    vectors = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    for start in range(0, len(texts), 32):
        rows = order[start : start + 32]
        cut = {"truncation": True, "max_length": options.product_tokens}
        batch = tokenizer([texts[row] for row in rows], padding=True, return_tensors="pt", **cut)
        with torch.no_grad():
            states = model.eval()(**batch).last_hidden_state.numpy()
        mask = batch["attention_mask"].numpy()[:, :, None]
        vectors[rows] = (states * mask).sum(1) / mask.sum(1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def check(name: str, vectors: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Return mean and least cosine with the reference; ends the run where they are too low."""
    cosines = (vectors * reference).sum(1)
    mean, least = float(cosines.mean()), float(cosines.min())
    if not (mean >= 0.98 and (least >= 0.999 or "fp32" not in name)):
        raise SystemExit(f"{name}: mean cosine {mean:.4f}, least {least:.4f}: these are not the same vectors")
    return mean, least


def describe_ratio(own: list[float], baseline: list[float]) -> str:
    """Return the median of the rounds' ratios with 95 % of a bootstrap over the rounds."""
    ratios = np.array(baseline) / np.array(own)
    drawn = np.random.default_rng(0).choice(ratios, (DRAWS, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return f"{np.median(ratios):.2f} [{low:.2f}, {high:.2f}]"


def measure_ndcg(options: argparse.Namespace) -> str:
    """Return NDCG@10 of the judged pairs by the two exports, and what int8 keeps, with 95 % of a bootstrap by query."""
    from indexer.distill.bootstrap import draw_weights, weighted_means
    from indexer.distill.evaluate import score_by_encoder
    from indexer.distill.judgements import read_measured
    from indexer.distill.metrics import query_ndcgs
    from indexer.encoder import open_encoder
    from indexer.input_config import CatalogueConfig, LabelsConfig

    catalogue = CatalogueConfig(path=options.texts, text_fields=options.fields)
    judged = read_measured(catalogue, LabelsConfig(path=options.labels))
    pairs, ids = judged.pairs, [judged.product_ids[row] for row in judged.pairs.product]
    found = []
    for precision in ("fp32", "int8"):
        scores = score_by_encoder(open_encoder(options.folder / precision, threads=options.threads), judged)
        found.append(query_ndcgs(scores, pairs.grade, ids, pairs.query, depth=10))
    counted = int(np.isfinite(found[0]).sum())
    if not counted:
        return "NDCG@10: no query has a relevant product"
    weights = draw_weights(len(found[0]), draws=DRAWS, seed=1)
    fp32, int8 = (weighted_means(values, weights) for values in found)
    low, high = np.percentile((int8 / fp32)[1:], (2.5, 97.5))
    return (
        f"NDCG@10 of {counted} queries: fp32 {fp32[0]:.4f}, int8 {int8[0]:.4f}, "
        f"{int8[0] / fp32[0]:.2%} of it [{low:.2%}, {high:.2%}]"
    )


def main() -> None:
    """Parse the command line and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", default="", help="catalogue whose texts are encoded")
    parser.add_argument("--fields", type=lambda text: tuple(text.split(",")), default=("title",))
    parser.add_argument("--labels", default="", help="judged pairs of that catalogue")
    parser.add_argument("--trained", default="", help="attempt folder of `indexer distill`")
    parser.add_argument("--number", type=int, default=2_000, help="texts of a round")
    parser.add_argument("--product-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", default="", help="numbers of texts at which peak memory is measured, by commas")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=0, help="of sentence-transformers; 0 finds the best of five")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(run_contender(options)))
        return
    os.environ.update(limit_threads(options.threads))
    print_machine("sentence-transformers", "transformers", "torch", "onnxruntime", "tokenizers", "numpy")
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        prepare(options)
        _compare(options)
        if options.labels:
            print(measure_ndcg(options))


def _compare(options: argparse.Namespace) -> None:
    texts, salt = json.loads((options.folder / "texts.json").read_text()), secrets.token_hex(2)
    _write_round(options, salt_texts(texts, SWEEP_TEXTS, salt, 0))
    batches = {name: options.batch or measure(f"sweep {name}", options)["batch"] for name in (TORCH_FP32, TORCH_BF16)}
    roofs = [measure("probe", options)]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    operations = []
    for number in range(1, options.rounds + 1):
        salted = salt_texts(texts, options.number, salt, number)
        _write_round(options, salted)
        operations.append(count_operations(options, tokens := count_tokens(options, salted)))
        for name in CONTENDERS[:: 1 if number % 2 else -1]:
            runs[name].append(measure(name, options, batches.get(name, 0)))
            found = runs[name][-1]
            print(f"round {number}: {name}: {found['seconds']:.2f} s, {found['cpu']:.2f} CPU s", flush=True)
    roofs.append(measure("probe", options))
    parts = ", ".join(f"{np.percentile(tokens, part):.0f}" for part in (5, 25, 50, 75, 95))
    print(
        f"{len(salted)} texts a round, {options.rounds} rounds, {options.threads} threads; tokens {tokens.mean():.1f} "
        f"on average, {parts} at 5, 25, 50, 75, 95 %; batches of sentence-transformers {batches}"
    )
    for when, roof in zip(("before", "after"), roofs, strict=True):
        print(f"GFLOP/s {when}: " + ", ".join(f"{name} {roof[name]:.0f}" for name in roof if " " in name))
    _print_table(options, runs, operations, roofs, reference_vectors(options, salted))
    for precision in ("fp32", "int8") if options.memory else ():
        for number in options.memory.split(","):
            found = measure(f"memory {precision} {number}", options)
            print(
                f"peak MiB, {precision}, {number} texts: {found['peak']:.0f}, loaded {found['loaded']:.0f}", flush=True
            )


def _write_round(options: argparse.Namespace, texts: list[str]) -> None:
    (options.folder / "round.json").write_text(json.dumps(texts))


def _print_table(
    options: argparse.Namespace, runs: dict[str, Any], operations: list[float], roofs: list[Any], reference: Any
) -> None:
    print(
        f"{'contender':31} {'texts/s':>8} {'ratio of seconds':>20} {'texts/CPU s':>11} {'ratio of CPU seconds':>21} "
        f"{'roof':>5} {'MiB':>6} {'mean cos':>8} {'least':>7}"
    )
    for name in CONTENDERS:
        seconds, cpu = ([run[kind] for run in runs[name]] for kind in ("seconds", "cpu"))
        base, base_cpu = ([run[kind] for run in runs[TORCH_FP32]] for kind in ("seconds", "cpu"))
        roof = max(found[next(kind for kind in ("fp32", "bf16", "int8") if kind in name)] for found in roofs)
        share = statistics.median(
            work / (spent / options.threads) / roof for work, spent in zip(operations, cpu, strict=True)
        )
        mean, least = check(name, np.load(options.folder / f"{name}.npy"), reference)
        peak = statistics.median(run["python"] for run in runs[name]) / 2**20
        print(
            f"{name:31} {options.number / statistics.median(seconds):8.0f} {describe_ratio(seconds, base):>20} "
            f"{options.number / statistics.median(cpu):11.0f} {describe_ratio(cpu, base_cpu):>21} {share:5.0%} "
            f"{peak:6.0f} {mean:8.5f} {least:7.5f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
