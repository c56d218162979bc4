"""What encodes a list of texts in benchmarks/encode.py, the machine's matrix products, and the memory of many texts."""

import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Encode = Callable[[list[str]], Vectors]

TORCH_FP32, TORCH_BF16 = "sentence-transformers fp32", "sentence-transformers bf16"
CONTENDERS = (
    TORCH_FP32,
    TORCH_BF16,
    "onnxruntime fp32, as they come",
    "onnxruntime fp32, sorted",
    "onnxruntime int8, sorted",
    "indexer fp32",
    "indexer int8",
)
"""Sorted and not, with batches that are padded to their longest text and the runtime's own threads and settings."""
BATCH_SIZES = (16, 32, 64, 128, 256)
FASTEMBED_BATCH = 256
SORTED_BATCH = 32
PRODUCTS = ((512, 384, 384), (512, 384, 1_536), (512, 1_536, 384))
"""Rows, inner and columns of a MiniLM's products with 512 tokens."""
PROBE_SECONDS = 0.5
CHUNK = 4_096


def open_contender(name: str, folder: Path, *, threads: int, batch: int, product_tokens: int) -> Encode:
    """Return what turns texts into vectors with so many threads; `batch` is for sentence-transformers."""
    library, _, kind = name.partition(" ")
    precision = kind[:4]
    if library == "indexer":
        from indexer.encoder import open_encoder

        return open_encoder(folder / precision, threads=threads).encode_products
    if library == "onnxruntime":
        return open_plain(folder / precision, threads=threads, tokens=product_tokens, in_order=kind.endswith("come"))
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = SentenceTransformer(str(folder / "student"), device="cpu", model_kwargs={"dtype": dtype})
    model.max_seq_length = product_tokens
    found = torch.get_num_threads()
    if found != threads:
        raise SystemExit(f"{name}: asked for {threads} threads, torch has {found}")
    return lambda texts: (
        model.encode(texts, batch_size=batch, show_progress_bar=False, convert_to_numpy=False, convert_to_tensor=True)
        .float()
        .numpy()
    )


def open_plain(folder: Path, *, threads: int, tokens: int, in_order: bool) -> Encode:
    """Return onnxruntime with a tokenizer that pads, in arrival order as fastembed does it, or sorted by length."""
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        (folder / "encoder.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding()
    size = FASTEMBED_BATCH if in_order else SORTED_BATCH

    def encode(texts: list[str]) -> Vectors:
        order = np.arange(len(texts)) if in_order else np.argsort([-len(text) for text in texts], kind="stable")
        vectors = np.empty((len(texts), session.get_outputs()[0].shape[-1]), dtype=np.float32)
        for start in range(0, len(texts), size):
            rows = order[start : start + size]
            found = tokenizer.encode_batch([texts[row] for row in rows])
            inputs = {
                "input_ids": np.array([item.ids for item in found]),
                "attention_mask": np.array([item.attention_mask for item in found]),
            }
            vectors[rows] = session.run(["embedding"], inputs)[0]
        return vectors

    return encode


def find_batch(name: str, folder: Path, texts: list[str], **settings: int) -> int:
    """Return the batch size at which sentence-transformers takes the least processor time on a few texts."""
    spent = {}
    for batch in BATCH_SIZES:
        encode = open_contender(name, folder, batch=batch, **settings)
        encode(texts[::8])
        started = time.process_time()
        encode(texts)
        spent[batch] = time.process_time() - started
    return min(spent, key=lambda batch: spent[batch])


def time_contender(encode: Encode, texts: list[str], target: Path) -> dict[str, float]:
    """Encode the texts into a file after a warm-up on a few; returns seconds of the clock and of the processors."""
    encode([f"warm {text}" for text in texts[: 2 * FASTEMBED_BATCH : 8]])
    started, spent = time.perf_counter(), time.process_time()
    np.save(target, encode(texts))
    return {"seconds": time.perf_counter() - started, "cpu": time.process_time() - spent}


def probe_products(threads: int) -> dict[str, float]:
    """Return the best GFLOP/s of matrix products in fp32 (of numpy, torch, onnxruntime), bf16 (torch) and int8."""
    import torch

    torch.set_num_threads(threads)
    found: dict[str, float] = {}
    rng = np.random.default_rng(0)
    for rows, inner, columns in PRODUCTS:
        left, right = (rng.standard_normal(shape, dtype=np.float32) for shape in ((rows, inner), (inner, columns)))
        coarse, signed = (left * 20 + 128).clip(0, 255).astype(np.uint8), (right * 20).clip(-127, 127).astype(np.int8)
        halves = [torch.from_numpy(side).bfloat16() for side in (left, right)]
        runs: dict[str, Callable[[], Any]] = {
            "numpy fp32": lambda left=left, right=right: left @ right,
            "torch fp32": lambda left=left, right=right: torch.from_numpy(left) @ torch.from_numpy(right),
            "ort fp32": open_product("MatMul", left, right, threads),
            "torch bf16": lambda halves=halves: halves[0] @ halves[1],
            "ort int8": open_product("MatMulInteger", coarse, signed, threads),
        }
        for name, run in runs.items():
            found[name] = max(found.get(name, 0.0), 2e-9 * rows * inner * columns / best_seconds(run))
    best = max(value for name, value in found.items() if name.endswith("fp32"))
    return {**found, "fp32": best, "bf16": found["torch bf16"], "int8": found["ort int8"]}


def open_product(kind: str, left: Any, right: Any, threads: int) -> Callable[[], Any]:
    """Return a run of one onnxruntime operator on two matrices, the second a constant as weights are."""
    import onnxruntime
    from onnx import helper, numpy_helper

    types = {np.dtype(np.float32): 1, np.dtype(np.uint8): 2}
    graph = helper.make_graph(
        [helper.make_node(kind, ["left", "right"], ["product"])],
        "product",
        [helper.make_tensor_value_info("left", types[left.dtype], ["rows", left.shape[1]])],
        [helper.make_tensor_value_info("product", 1 if kind == "MatMul" else 6, ["rows", right.shape[1]])],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"left": left})


def best_seconds(run: Callable[[], Any]) -> float:
    """Return the shortest of the runs that fit into half a second."""
    run()
    best, ends = float("inf"), time.perf_counter() + PROBE_SECONDS
    while (started := time.perf_counter()) < ends:
        run()
        best = min(best, time.perf_counter() - started)
    return best


def measure_memory(folder: Path, texts: list[str], number: int, threads: int) -> dict[str, float]:
    """Encode `number` texts, each chunk's vectors let go; returns the peak resident MiB before and after."""
    from indexer.encoder import open_encoder

    encoder = open_encoder(folder, threads=threads)

    def chunks() -> Iterator[list[str]]:
        for start in range(0, number, CHUNK):
            yield [f"{texts[row % len(texts)]} {row:x}" for row in range(start, min(start + CHUNK, number))]

    loaded = peak_mebibytes()
    rows = sum(len(encoded.vectors) for encoded in encoder.encode_chunks(chunks(), kind="product"))
    if rows != number:
        raise SystemExit(f"memory: {rows} vectors of {number} texts")
    return {"loaded": loaded, "peak": peak_mebibytes()}


def peak_mebibytes() -> float:
    """Return the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def limit_threads(threads: int) -> dict[str, str]:
    """Return an environment in which every library has so many threads, the tokenizer's among them."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads)), "CUDA_VISIBLE_DEVICES": ""}
