"""A model folder from somebody else: only known kinds of file, modules of known classes, and weights that are whole.

Everything is looked at before a library opens any of it; weights are safetensors alone, which hold numbers and no code.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from indexer.errors import EncoderError
from indexer.strict_json import Record, parse_record

SUFFIXES = (".json", ".txt", ".md", ".safetensors", ".model", ".jinja")
NAMES = (".gitattributes", ".gitignore", "LICENSE", "NOTICE")
MODULES = re.compile(
    r"sentence_transformers\.(models|base\.modules\.\w+|sentence_transformer\.modules(\.\w+)?)"
    r"\.(Transformer|Pooling|Normalize|StaticEmbedding)"
)
"""Classes that `modules.json` may name."""
MAX_HEADER_BYTES = 16 << 20
CODE_KEYS = ("auto_map", "custom_pipelines")
"""Keys of a configuration that name code to be imported."""


def check_model_folder(folder: Path) -> None:
    """Raise EncoderError naming the first file that a model folder must not have, or that is not what it should be."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        if path.suffix not in SUFFIXES and path.name not in NAMES:
            raise EncoderError(
                f"{path}: expected files of a model without code, {', '.join(SUFFIXES)}; "
                "remove it, or save the model as safetensors"
            )
        if path.suffix == ".json":
            _check_configuration(path)
        if path.suffix == ".safetensors":
            check_weights(path)
    modules = folder / "modules.json"
    if modules.exists():
        _check_modules(modules)


def check_weights(path: Path) -> None:
    """Raise EncoderError unless a safetensors file has a small header, tensors side by side, and finite numbers."""
    _check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    raise EncoderError(
                        f"{path}: tensor {name!r} has numbers that are not finite; train or fetch it again"
                    )
    except SafetensorError as error:
        raise EncoderError(f"{path}: cannot be read as safetensors: {error}") from None


def _check_header(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise EncoderError(f"{path}: expected a header of at most {MAX_HEADER_BYTES} bytes, found {length}")
        record = parse_record(file.read(length), f"{path}: header", EncoderError)
    if "__metadata__" in record.names():
        record.mapping("__metadata__")
    spans = sorted(_read_spans(record))
    ends = [0, *(end for _, end in spans)]
    if [start for start, _ in spans] != ends[:-1] or ends[-1] != size - 8 - length:
        raise EncoderError(f"{path}: tensors overlap, or bytes belong to none of them; fetch the file again")


def _read_spans(record: Record) -> Iterator[tuple[int, int]]:
    for name in record.names():
        tensor = record.record(name)
        tensor.text("dtype")
        tensor.values("shape")
        offsets = tensor.values("data_offsets")
        tensor.finish()
        if len(offsets) != 2 or not all(type(offset) is int for offset in offsets) or not 0 <= offsets[0] <= offsets[1]:
            tensor.refuse("two rising offsets", offsets, "data_offsets")
        yield offsets[0], offsets[1]


def _check_configuration(path: Path) -> None:
    """Refuse a configuration that names code; vocabularies and indexes are large, and name none."""
    if not path.name.startswith(("config", "sentence", "tokenizer_config")):
        return
    record = parse_record(path.read_bytes(), str(path), EncoderError)
    for key in CODE_KEYS:
        if key in record.names():
            raise EncoderError(f"{path}: {key!r} names code to be run; no model's code is ever run, choose another")


def _check_modules(path: Path) -> None:
    record = parse_record(b'{"modules": ' + path.read_bytes() + b"}", str(path), EncoderError)
    for module in record.records("modules"):
        kind = module.text("type")
        if not MODULES.fullmatch(kind):
            module.refuse("a class of sentence-transformers: Transformer, Pooling, Normalize or StaticEmbedding", kind)
        inside = Path(module.text("path", empty=True))
        if inside.is_absolute() or ".." in inside.parts:
            module.refuse("a folder of the model", str(inside), "path")
