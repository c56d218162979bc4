"""The walk over ONNX files against models of the `onnx` package: what is foreign is named, and never opened."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper

from indexer.errors import EncoderError
from indexer.onnx_file import MAX_FIELDS, check_model
from tests.proof.fuzz_targets import check_by_package
from tests.proof.make_corpus import make_model

SMALL = make_model()


def changed(change: Callable[[Any], None]) -> bytes:
    model = onnx.load_from_string(SMALL)
    change(model)
    return bytes(model.SerializeToString())


def inner_node(model: Any) -> Any:
    """A node of the graph in the graph."""
    return model.graph.node[0].attribute[0].g.node[0]


def external(tensor: Any) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def sparse(model: Any) -> None:
    values = helper.make_tensor("values", TensorProto.FLOAT, [1], [1.0])
    external(values)
    indices = helper.make_tensor("indices", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


def foreign_node(model: Any) -> None:
    model.graph.node.append(helper.make_node("Evil", [], ["z"], domain="com.evil"))


def function(model: Any) -> None:
    made = helper.make_function("com.evil", "F", [], ["y"], [helper.make_node("Evil", [], ["y"])], [])
    model.functions.append(made)


def nest(model: Any) -> None:
    for _ in range(12):
        inner = model.graph
        attribute = AttributeProto(name="g", type=AttributeProto.GRAPH)
        attribute.g.CopyFrom(inner)
        node = helper.make_node("If", ["flag"], ["y"])
        node.attribute.append(attribute)
        model.graph.CopyFrom(helper.make_graph([node], "outer", [], []))


FOREIGN: list[tuple[str, Callable[[Any], None], str]] = [
    ("weights elsewhere", lambda model: external(model.graph.initializer[1]), r"weights outside the file"),
    ("in an attribute", lambda model: external(inner_node(model).attribute[0].t), r"weights outside the file"),
    ("sparse", sparse, r"weights outside the file"),
    (
        "location alone",
        lambda model: setattr(model.graph.initializer[0], "data_location", 1),
        r"weights outside the file",
    ),
    ("operator", foreign_node, r"an operator of the domain 'com\.evil'"),
    (
        "within",
        lambda model: setattr(inner_node(model), "domain", "org.evil"),
        r"an operator of the domain 'org\.evil'",
    ),
    (
        "ml",
        lambda model: setattr(inner_node(model), "domain", "ai.onnx.ml"),
        r"an operator of the domain 'ai\.onnx\.ml'",
    ),
    (
        "opens files",
        lambda model: setattr(inner_node(model), "op_type", "EPContext"),
        r"the operator EPContext, which opens",
    ),
    ("function", function, r"functions of its own"),
    ("training", lambda model: model.training_info.add(), r"training steps"),
    ("segment", lambda model: setattr(model.graph.initializer[0].segment, "begin", 1), r"weights in segments"),
    ("nested", nest, r"nested too deeply"),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in FOREIGN], ids=[case[0] for case in FOREIGN])
def test_what_a_model_must_not_have_is_named(change: Callable[[Any], None], message: str):
    with pytest.raises(EncoderError, match=rf"^m: the model has {message}|^m: the model is {message}"):
        check_model(changed(change), "m")


@pytest.mark.parametrize(
    "change",
    [
        lambda model: None,
        lambda model: setattr(inner_node(model), "domain", "ai.onnx"),
        lambda model: setattr(inner_node(model), "domain", "com.microsoft"),
        # Quantisation writes imports of many domains that no node asks for.
        lambda model: model.opset_import.append(helper.make_opsetid("org.pytorch.aten", 1)),
        lambda model: helper.set_model_props(model, {"onnx.infer": "x"}),
    ],
)
def test_what_exports_have_is_accepted(change: Callable[[Any], None]):
    check_model(changed(change), "m")


def number(field: int, value: bytes) -> bytes:
    return bytes([field << 3]) + value


def message(field: int, data: bytes) -> bytes:
    assert len(data) < 128
    return bytes([field << 3 | 2, len(data)]) + data


TENSOR = message(7, message(5, number(14, b"\x01")))
WIRE = [
    (b"", "has 0 bytes, expected 1 to 2147483647"),
    (b"\x08", "is cut within a number"),
    (b"\x3a\x05\x0a", "is cut within a field"),
    (b"\x08" + b"\xff" * 10, "a number of more than 10 bytes"),
    (b"\x0b\x0c", "wire type 3"),
    (b"\x0f", "wire type 7"),
    (number(7, b"\x01"), "wire type 0 in field 7 of a model"),
    (b"\xf8\x07\x01", "field 127 in a model"),
    (b"\x08\x01" * (MAX_FIELDS + 1), f"more than {MAX_FIELDS} fields"),
    (TENSOR, "weights outside the file"),
    # The last of two wins in protobuf; here each counts.
    (message(7, message(5, number(14, b"\x01") + number(14, b"\x00"))), "weights outside the file"),
    # 2^32 + 1 is 1 to who keeps 32 bits of it.
    (message(7, message(5, number(14, b"\x81\x80\x80\x80\x10"))), "weights outside the file"),
    # Two graphs are one to protobuf.
    (message(7, b"") + TENSOR, "weights outside the file"),
]


@pytest.mark.parametrize(("data", "problem"), WIRE)
def test_what_is_no_model_on_the_wire_is_named(data: bytes, problem: str):
    with pytest.raises(EncoderError, match=f"the model (has |is )?{problem}"):
        check_model(data, "m")


@settings(max_examples=400)
@given(data=st.data())
def test_no_change_of_bytes_gets_past_the_walk(data: st.DataObject):
    """The `onnx` package is the judge of what a changed model would open."""
    content = bytearray(changed(lambda model: external(model.graph.initializer[1])))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[place] = data.draw(st.integers(0, 255))
        else:
            del content[place : place + data.draw(st.integers(1, 40))]
        if not content:
            return
    try:
        check_model(bytes(content), "m")
    except EncoderError:
        return
    check_by_package(bytes(content))


def test_weights_are_passed_over_whatever_their_size():
    table = np.zeros((1000, 1000), np.float32)
    model = onnx.load_from_string(SMALL)
    model.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    check_model(model.SerializeToString(), "m")
