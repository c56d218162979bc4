"""Write `encoder_v1`, a tiny encoder made by hand: a table of word vectors, their masked mean, unit length.

Run once; the folder is committed and never written again: `python tests/golden/make_encoder.py`.
"""

import hashlib
import json
import string
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

FOLDER = Path(__file__).parent / "encoder_v1"
DIMENSION = 32
WORDS = [
    "baby",
    "bottle",
    "steel",
    "sipper",
    "cup",
    "mug",
    "water",
    "kids",
    "school",
    "bag",
    "backpack",
    "shoes",
    "running",
    "trail",
    "men",
    "women",
    "red",
    "blue",
    "green",
    "black",
    "white",
    "cotton",
    "shirt",
    "dress",
    "phone",
    "case",
    "charger",
    "cable",
    "lamp",
    "desk",
    "chair",
    "table",
    "garden",
    "hose",
    "seeds",
    "plant",
    "pot",
]


def make_tokenizer() -> Tokenizer:
    """Return a word-piece tokenizer of the words above and single characters."""
    pieces = [*WORDS, *string.ascii_lowercase, *string.digits]
    pieces += [f"##{piece}" for piece in string.ascii_lowercase + string.digits]
    vocabulary = {piece: number for number, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def make_model(words: int) -> onnx.ModelProto:
    """Return embedding = normalise(sum over tokens of mask * table[token])."""
    table = np.random.default_rng(7).standard_normal((words, DIMENSION)).astype(np.float32)
    table[:4] *= 0.05
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["columns"]),
        helper.make_node("Mul", ["vectors", "columns"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "middle"], ["summed"], keepdims=0),
        helper.make_node("LpNormalization", ["summed"], ["embedding"], axis=-1, p=2),
    ]
    tokens = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "t"]) for n in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["b", DIMENSION])
    constants = {"table": table, "last": np.array([2]), "middle": np.array([1])}
    initial = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", tokens, [output], initial)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def expected_vector(tokenizer: Tokenizer, model: onnx.ModelProto, text: str) -> list[float]:
    """Return the vector by plain numpy, not by the model."""
    table = numpy_helper.to_array(model.graph.initializer[0])
    summed = table[tokenizer.encode(text).ids].sum(axis=0)
    return [round(float(number), 6) for number in summed / np.linalg.norm(summed)]


def main() -> None:
    """Write the folder; it must not exist."""
    FOLDER.mkdir()
    tokenizer = make_tokenizer()
    model = make_model(tokenizer.get_vocab_size())
    (FOLDER / "encoder.onnx").write_bytes(model.SerializeToString(deterministic=True))
    tokenizer.save(str(FOLDER / "tokenizer.json"))
    tests = [("query", "steel sipper"), ("query", "red dress"), ("product", "Baby Bottle | steel | Acme")]
    description = {
        "format": 1,
        "name": "tiny",
        "precision": "fp32",
        "dimension": DIMENSION,
        "query_tokens": 16,
        "product_tokens": 32,
        "text_fields": ["title", "product_type", "brand", "color"],
        "text_separator": " | ",
        "files": {
            name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()
            for name in ("encoder.onnx", "tokenizer.json")
        },
        "self_test": [
            {"kind": kind, "text": text, "vector": expected_vector(tokenizer, model, text)} for kind, text in tests
        ],
        "parity": {"mean_cosine": 1.0},
    }
    (FOLDER / "encoder.json").write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
