"""The exported encoder against torch, and as a consumer opens it."""

import hashlib
import json

import numpy as np
import pytest
import torch

from indexer.distill.encoders import pad_tokens, pool_tokens
from indexer.distill.export import ExportSettings, export_encoder, open_session
from indexer.encoder import open_encoder
from indexer.errors import GateError

pytestmark = pytest.mark.train

SAMPLE = ["redcup bluebag", "old pen", "soft softhat | big bigpen oldcup redpen", "x y z"]
SETTINGS = ExportSettings(name="tiny", text_fields=("title", "brand"), text_separator=" | ", min_parity=0.9)


@pytest.fixture
def student(open_tiny):
    return open_tiny((0, 2))


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.999999), ("int8", 0.97)])
def test_parity_with_torch(student, tmp_path, precision, least):
    parity = export_encoder(student, tmp_path / "encoder", precision=precision, settings=SETTINGS, sample=SAMPLE)
    assert least <= parity["min_cosine"] <= parity["mean_cosine"] <= 1 + 1e-6
    opened = open_encoder(tmp_path / "encoder", threads=1)
    cosines = (opened.encode_products(SAMPLE) * student.encode_products(SAMPLE)).sum(1)
    assert cosines.min() >= least - 0.01
    queries = (opened.encode_queries(["redcup", "Big  Bag"]) * student.encode_queries(["redcup", "big bag"])).sum(1)
    assert queries.min() >= least - 0.01
    assert sorted(path.name for path in (tmp_path / "encoder").iterdir()) == [
        "encoder.json",
        "encoder.onnx",
        "tokenizer.json",
    ]


@pytest.mark.parametrize(("batch", "tokens"), [(1, 3), (5, 2), (3, 16), (9, 40)])
def test_any_batch_size_and_length(student, tmp_path, batch, tokens):
    export_encoder(student, tmp_path, precision="fp32", settings=SETTINGS, sample=SAMPLE)
    generator = torch.Generator().manual_seed(batch)
    lengths = [tokens, *torch.randint(1, tokens + 1, (batch - 1,), generator=generator).tolist()]
    ids, mask = pad_tokens([torch.randint(5, 60, (n,), generator=generator).tolist() for n in lengths], pad_id=0)
    found = open_session(tmp_path / "encoder.onnx").run(
        ["embedding"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    )[0]
    student.transformer.eval()
    with torch.no_grad():
        expected = pool_tokens(student.transformer(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
    assert found.shape == (batch, 32)
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-6)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_vector_is_decided_by_its_text_alone(student, tmp_path, precision):
    export_encoder(student, tmp_path, precision=precision, settings=SETTINGS, sample=SAMPLE)
    words = [*"abcdefgxyz", "redcup", "bluebag", "oldpen", "softhat"]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, size)) for size in rng.integers(1, 14, 120)]
    alone = np.stack([open_encoder(tmp_path, threads=1).encode_products([text])[0] for text in texts])
    for budget in (16, 64, 1_000):
        opened = open_encoder(tmp_path, threads=2, batch_tokens=budget)
        order = rng.permutation(len(texts))
        found = opened.encode_products([texts[row] for row in order])
        np.testing.assert_array_equal(found, alone[order])


def test_what_encoder_json_says(student, tmp_path):
    export_encoder(student, tmp_path, precision="fp32", settings=SETTINGS, sample=SAMPLE)
    document = json.loads((tmp_path / "encoder.json").read_text())
    named = {name: document[name] for name in ("format", "name", "precision", "dimension")}
    assert named == {"format": 1, "name": "tiny", "precision": "fp32", "dimension": 32}
    assert (document["query_tokens"], document["product_tokens"]) == (8, 16)
    assert (document["text_fields"], document["text_separator"]) == (["title", "brand"], " | ")
    for name, expected in document["files"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == expected
    for test in document["self_test"]:
        encode = student.encode_queries if test["kind"] == "query" else student.encode_products
        np.testing.assert_allclose(encode([test["text"]])[0], test["vector"], atol=1e-5)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    assert (tokenizer["truncation"], tokenizer["padding"]) == (None, None)


def test_export_leaves_the_student_as_it_was(student, tmp_path):
    before = student.encode_products(SAMPLE)
    student.transformer.train()
    export_encoder(student, tmp_path, precision="fp32", settings=SETTINGS, sample=SAMPLE)
    assert student.transformer.training
    assert student.transformer.config._attn_implementation == "sdpa"
    np.testing.assert_array_equal(student.encode_products(SAMPLE), before)


def test_bad_parity_is_refused(student, tmp_path):
    strict = ExportSettings(name="tiny", text_fields=("title",), text_separator=" ", min_parity=1.01)
    with pytest.raises(GateError, match=r"int8 export of tiny: mean cosine with torch is 0\.9"):
        export_encoder(student, tmp_path, precision="int8", settings=strict, sample=SAMPLE)
    assert not (tmp_path / "encoder.json").exists()
