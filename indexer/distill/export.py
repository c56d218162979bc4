"""Write an encoder as one ONNX file with pooling and normalisation inside, ready for ONNX Runtime alone.

The TorchScript exporter is used on purpose: measured on a three-layer BERT it takes 1 s where the newer one takes
26 s, and its graph holds for every batch size and length, which the tests check.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn
from torch.nn import functional as F

from indexer.distill.encoders import TextEncoder, Tokens, pad_tokens
from indexer.distill.static_encoder import TokenTable
from indexer.errors import GateError
from indexer.store import hash_file

FORMAT = 1
OPSET = 17
INPUTS = ("input_ids", "attention_mask")
MODEL_FILE, TOKENIZER_FILE, CARD_FILE = "encoder.onnx", "tokenizer.json", "encoder.json"

Precision = Literal["fp32", "int8"]

SELF_TEST_QUERIES = ("baby sipper", "red running shoes size 9")
SELF_TEST_PRODUCTS = ("Stainless Steel Water Bottle 300 ml | bottle | Acme", "USB-C cable, 2 m")
"""Fixed texts whose vectors travel with the encoder, so that a consumer can prove that it computes the same."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What the encoder folder says about the texts it was trained on."""

    name: str
    text_fields: Sequence[str]
    text_separator: str
    min_parity: float
    """Least mean cosine between torch and the exported file."""


def export_encoder(
    encoder: TextEncoder,
    directory: Path,
    *,
    precision: Precision,
    settings: ExportSettings,
    sample: Sequence[str],
    reference: TextEncoder | None = None,
) -> dict[str, float]:
    """Write encoder.onnx, tokenizer.json and encoder.json, and return the parity figures.

    `sample` are product texts on which the file must agree with the reference, by default the encoder itself, in torch;
    raises GateError where they do not.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model = directory / MODEL_FILE
    write_onnx(encoder, model)
    if precision == "int8":
        quantise_file(model)
    tokenizer = encoder.tokenizer.from_str(encoder.tokenizer.to_str())
    tokenizer.no_truncation()
    (directory / TOKENIZER_FILE).write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    session = open_session(model)
    parity = measure_parity(reference or encoder, session, encoder.tokenise_products(sample))
    if not parity["mean_cosine"] >= settings.min_parity:
        raise GateError(
            f"{precision} export of {settings.name}: mean cosine with torch is {parity['mean_cosine']:.6f} on "
            f"{len(sample)} texts, expected at least {settings.min_parity} (gates.min_parity_{precision})"
        )
    document = {
        "format": FORMAT,
        "name": settings.name,
        "precision": precision,
        "dimension": encoder.dimension,
        "query_tokens": encoder.query_tokens,
        "product_tokens": encoder.product_tokens,
        "text_fields": list(settings.text_fields),
        "text_separator": settings.text_separator,
        "files": {name: hash_file(directory / name) for name in (MODEL_FILE, TOKENIZER_FILE)},
        "self_test": _make_self_test(encoder, session),
        "parity": parity,
    }
    (directory / CARD_FILE).write_text(json.dumps(document, indent=1), encoding="utf-8")
    return parity


def write_onnx(encoder: TextEncoder, path: Path) -> None:
    """Write transformer, pooling and norm as one fp32 file; batch size and length stay free."""
    transformer: Any = encoder.transformer
    attention = None if isinstance(transformer, TokenTable) else transformer.config._attn_implementation
    was_training = transformer.training
    if attention:
        # Plain attention exports to a smaller graph than the fused kernel's mask handling, and runs faster.
        transformer.set_attn_implementation("eager")
    ids, mask = pad_tokens([[1, 2, 3, 4], [1, 2]], pad_id=0)
    axes = {name: {0: "batch", 1: "tokens"} for name in INPUTS} | {"embedding": {0: "batch"}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _PooledTransformer(transformer).eval(),
                (ids.to(encoder.device), mask.to(encoder.device)),
                str(path),
                input_names=list(INPUTS),
                output_names=["embedding"],
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
    finally:
        if attention:
            transformer.set_attn_implementation(attention)
        transformer.train(was_training)


def quantise_file(path: Path) -> None:
    """Replace an fp32 file by its dynamic int8 form: weights per channel, activations per tensor at run time."""
    prepared = path.with_suffix(".prepared")
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    quantize_dynamic(str(prepared), str(path), per_channel=True, weight_type=QuantType.QInt8)
    prepared.unlink()


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open an exported file on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_session(session: onnxruntime.InferenceSession, texts: Sequence[Tokens]) -> NDArray[np.float32]:
    """Return (texts, dimension) vectors, each text alone: int8 scales depend on what stands in the batch."""
    rows = []
    for text in texts:
        ids, mask = pad_tokens([text], pad_id=0)
        rows.append(session.run(["embedding"], dict(zip(INPUTS, (ids.numpy(), mask.numpy()), strict=True)))[0][0])
    return np.stack(rows)


def measure_parity(
    encoder: TextEncoder, session: onnxruntime.InferenceSession, texts: Sequence[Tokens]
) -> dict[str, float]:
    """Return mean and least cosine between torch's vectors and the file's."""
    expected = encoder.embed_frozen(texts).numpy()
    cosines = np.einsum("nd,nd->n", expected, run_session(session, texts))
    return {"mean_cosine": float(cosines.mean()), "min_cosine": float(cosines.min())}


class _PooledTransformer(nn.Module):
    """The graph that is exported."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        # The mean as a product: ONNX Runtime sums along an axis in another order where a batch has one text, and a
        # vector's last bits would depend on its batch. The norm makes the mean of the sum.
        total = attention_mask.to(states.dtype).unsqueeze(1) @ states
        return F.normalize(total.squeeze(1), dim=-1)


def _make_self_test(encoder: TextEncoder, session: onnxruntime.InferenceSession) -> list[dict[str, Any]]:
    kinds = ["query"] * len(SELF_TEST_QUERIES) + ["product"] * len(SELF_TEST_PRODUCTS)
    tokens = encoder.tokenise_queries(SELF_TEST_QUERIES) + encoder.tokenise_products(SELF_TEST_PRODUCTS)
    vectors = run_session(session, tokens)
    return [
        {"kind": kind, "text": text, "vector": vector.tolist()}
        for kind, text, vector in zip(kinds, (*SELF_TEST_QUERIES, *SELF_TEST_PRODUCTS), vectors, strict=True)
    ]
