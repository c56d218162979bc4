"""Write the seeds of `corpus/`: small valid inputs of each target, from the golden releases and from scratch.

python -m tests.proof.make_corpus
"""

import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from indexer.hnsw import build_index, write_index
from indexer.index_config import IndexConfig
from indexer.strict_json import write_document
from tests.proof.fuzz_targets import CORPUS, FORMATS, SHAPES

GOLDEN = Path(__file__).parents[1] / "golden"
ROWS = (
    "product_id,title,brand,color,updated_at\nP1,red mug,acme,red,2026-01-01\nP1,red mug,acme,red,2026-01-02\n,x,y,,\n"
)
CONFIG = """
[shop]
work = "work"
[catalogue]
path = "products.jsonl"
columns = { product_id = "asin" }
[npmi]
tau = 0.4
[distill]
teachers = ["scores:a", "cross:b"]
student_layers = [0, 2]
[index]
m = 8
"""

UNWRITABLE = {
    "surrogate": {"config": {"a": "\ud800"}},
    "nested": {"config": {"a": json.loads("[" * 500 + "]" * 500)}},
    "integer": {"gates": [{"name": "a", "expected": "b", "found": 10**400, "passed": True}]},
}
"""Fields of a manifest that are JSON and that no manifest can be written with."""


def main() -> None:
    """Write the seeds, and some that are refused; other files of the corpus stay."""
    release = GOLDEN / "release_v3"
    entry = json.loads((release / "log/00000000000000000002.json").read_bytes()) | {"sequence": 3, "parent": 2}
    pin = {"format": 1, "kind": "pin", "sequence": 3, "parent": 2, "runs": ["a"], "created_at": entry["created_at"]}
    signed = entry | {"format": 2, "signature": "A" * 86 + "==", "expires_at": entry["created_at"]}
    for name, document in (("entry", entry), ("pin", pin), ("signed", signed)):
        write("log-entry", name, write_document(document))
    for name in ("release_v1", "release_v3"):
        manifest = max((GOLDEN / name).glob("v/*/manifest.*.json"))
        document = json.loads(manifest.read_bytes())
        write("manifest", name, json.dumps(document).encode())
    for name, damage in UNWRITABLE.items():
        write("manifest", name, json.dumps(document | damage).encode())
    write("config", "shop.toml", CONFIG.encode())
    description = json.loads((GOLDEN / "encoder_v1/encoder.json").read_bytes())
    write("encoder", "encoder.json", json.dumps(description | {"self_test": description["self_test"][:1]}).encode())
    write("canaries", "canaries.json", json.dumps(shorten_canaries(release)).encode())
    lines = [{"product_id": "a", "title": "b", "brand": "c"}, {"product_id": "d", "title": "e\u200b"}]
    records = "".join(json.dumps(line) + "\n" for line in lines)
    for number, kind in enumerate(FORMATS):
        text = {"tsv": ROWS.replace(",", "\t"), "jsonl": records}.get(kind, ROWS).encode()
        packed = gzip.compress(text, mtime=0) if kind.endswith("gz") else text
        write("catalogue", f"rows.{kind}", bytes([number]) + packed)
    with tempfile.TemporaryDirectory() as folder:
        for number, shape in SHAPES.items():
            vectors = np.random.default_rng(4).standard_normal((shape.rows, shape.dimension)).astype(np.float32)
            path = Path(folder) / shape.storage
            write_index(build_index(vectors, IndexConfig(m=shape.m, ef_construction=8, storage=shape.storage)), path)
            write("index", shape.storage, bytes([number]) + path.read_bytes())
    write("model", "small.onnx", make_model())


def shorten_canaries(release: Path) -> dict[str, object]:
    """Return canaries with one query of four numbers."""
    document = json.loads(min(release.glob("v/*/canaries.*.json")).read_bytes())
    (item, *_) = document["collections"]
    query = item["queries"][0]
    item["queries"] = [query | {"vector": query["vector"][:4]}]
    return {"format": document["format"], "collections": [item]}


def make_model() -> bytes:
    """Return a model that has a graph in a graph, and weights in each form."""
    numbers = helper.make_tensor("numbers", TensorProto.FLOAT, [2], [1.0, 2.0])
    raw = helper.make_tensor("raw", TensorProto.FLOAT, [1], np.ones(1, np.float32).tobytes(), raw=True)
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    constant = helper.make_node("Constant", [], ["y"], value=numbers)
    inner = helper.make_graph([constant], "inner", [], [value])
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    choice = helper.make_node("If", ["flag"], ["y"], then_branch=inner, else_branch=inner)
    graph = helper.make_graph([choice], "graph", [flag], [value], [numbers, raw])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())


def write(target: str, name: str, data: bytes) -> None:
    """Write one seed."""
    path = CORPUS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


if __name__ == "__main__":
    main()
