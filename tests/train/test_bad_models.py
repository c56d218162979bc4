"""Bad model folders and exported encoders (tests/bad_inputs): refused, and nothing in them is ever run."""

import hashlib
import json
import shutil
import struct

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file

from indexer.distill.encoders import open_model
from indexer.encoder import open_encoder
from indexer.errors import ConfigError, EncoderError, IndexerError
from tests.bad_inputs.lines import line

pytestmark = pytest.mark.train

BOMB = """
from pathlib import Path
from torch.nn import Module
Path({mark!r}).write_text("ran")
class Evil(Module): pass
"""


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture
def mark(tmp_path):
    """A file that appears when code of the model's folder runs."""
    return tmp_path / "ran"


def find_weights(folder):
    return next(folder.rglob("model.safetensors"))


def pickle_weights(folder, mark):
    """Put a pickle that runs code in the place of the weights."""

    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(mark)!r}, 'w').close()",))

    path = find_weights(folder)
    path.unlink()
    torch.save(Evil(), path.with_name("pytorch_model.bin"))


def foreign_class(folder, mark):
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "evil.Evil"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "evil.py").write_text(BOMB.format(mark=str(mark)))


def remote_code(folder, mark):
    path = find_weights(folder).with_name("config.json")
    config = json.loads(path.read_text())
    config["auto_map"] = {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}
    config["model_type"] = "evil"
    path.write_text(json.dumps(config))
    path.with_name("evil.py").write_text(BOMB.format(mark=str(mark)))


def system_class(folder, mark):
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "subprocess.Popen"
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize(
    "spoil",
    [
        line(98, pickle_weights, case="pickle"),
        line(98, foreign_class, case="class of its own"),
        line(98, remote_code, case="remote code"),
        line(98, system_class, case="class of the system"),
    ],
)
def test_no_code_of_a_models_folder_runs(folder, mark, spoil):
    spoil(folder, mark)
    with pytest.raises(IndexerError) as caught:
        open_model(str(folder), query_tokens=8, product_tokens=16)
    assert caught.value.exit_code in (ConfigError.exit_code, EncoderError.exit_code)
    assert not mark.exists()


def huge_header(folder):
    path = find_weights(folder)
    path.write_bytes(struct.pack("<Q", 200 << 20) + b"{" + b" " * (17 << 20))


def overlapping(folder):
    path = find_weights(folder)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]
    changed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + data[8 + length :])


def nan_weights(folder):
    path = find_weights(folder)
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "spoil",
    [
        line(99, huge_header, case="safetensors header"),
        line(99, overlapping, case="safetensors that overlap"),
        line(99, nan_weights, case="NaN in safetensors"),
    ],
)
def test_broken_weights_are_refused(folder, spoil):
    spoil(folder)
    with pytest.raises(IndexerError):
        open_model(str(folder), query_tokens=8, product_tokens=16)


@pytest.fixture
def exported(encoder_directory, tmp_path):
    """An exported encoder whose description is written anew after it was spoilt: its hashes are right."""
    folder = shutil.copytree(encoder_directory, tmp_path / "encoder")

    def spoil(change):
        path = folder / "encoder.onnx"
        path.write_bytes(change(onnx.load(str(path))).SerializeToString())
        described = json.loads((folder / "encoder.json").read_text())
        described["files"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        (folder / "encoder.json").write_text(json.dumps(described))
        return folder

    return spoil


def weights_elsewhere(model):
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../../../etc/passwd")
    return model


def custom_operator(model):
    model.opset_import.append(helper.make_opsetid("evil.domain", 1))
    model.graph.node[-1].domain = "evil.domain"
    return model


def nan_output(model):
    table = numpy_helper.to_array(model.graph.initializer[0])
    spoilt = numpy_helper.from_array(np.full_like(table, np.nan), "table")
    model.graph.initializer[0].CopyFrom(spoilt)
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        line(99, weights_elsewhere, "encoder.onnx: .*external data.* was not opened", case="path outside"),
        line(99, custom_operator, "encoder.onnx: .*evil.domain.* was not opened", case="custom operator"),
        line(99, nan_output, "expected a cosine of at least 0.999, found nan", case="NaN"),
    ],
)
def test_an_encoder_that_is_not_one_is_refused(exported, change, message):
    with pytest.raises(EncoderError, match=message):
        open_encoder(exported(change), threads=1)
