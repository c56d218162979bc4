"""Opening, cutting and saving models; vectors against sentence-transformers itself."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from indexer.distill.encoders import find_model, open_model, pad_tokens, pool_tokens
from indexer.errors import ConfigError, EncoderError

pytestmark = pytest.mark.train

TEXTS = ["redcup", "big bag | softpen softhat", "a b c d e", "oldcup oldpen bluehat", "x"]


def test_vectors_equal_those_of_sentence_transformers(open_tiny, tiny_model):
    expected = SentenceTransformer(str(tiny_model), device="cpu").encode(TEXTS, normalize_embeddings=True)
    found = open_tiny().encode_products(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_queries_and_products_are_cut_at_their_own_limits(open_tiny):
    encoder, words = open_tiny(), " ".join(["redcup"] * 30)
    assert [len(encoder.tokenise_queries([words])[0]), len(encoder.tokenise_products([words])[0])] == [8, 16]


def test_order_and_company_do_not_change_a_vector(open_tiny, monkeypatch):
    encoder = open_tiny()
    alone = np.concatenate([encoder.encode_products([text]) for text in TEXTS])
    monkeypatch.setattr("indexer.distill.chunks.MAX_CHUNK_TOKENS", 24)
    np.testing.assert_allclose(encoder.encode_products(TEXTS), alone, atol=1e-5)
    assert encoder.encode_queries([]).shape == (0, 32)


def test_mean_pooling_by_hand():
    states = torch.tensor([[[3.0, 0.0], [3.0, 8.0], [100.0, 100.0]]])
    assert pool_tokens(states, torch.tensor([[1, 1, 0]])).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]


def test_padding():
    ids, mask = pad_tokens([[5, 6, 7], [8]], pad_id=9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_cut_layers_keeps_the_named_ones(open_tiny):
    whole, cut = open_tiny(), open_tiny((0, 2))
    kept = cut.transformer.encoder.layer
    assert cut.transformer.config.num_hidden_layers == len(kept) == 2
    for layer, source in zip(kept, (0, 2), strict=True):
        for name, tensor in whole.transformer.encoder.layer[source].state_dict().items():
            assert torch.equal(layer.state_dict()[name], tensor)


@pytest.mark.parametrize("layers", [(0, 3), (-1,), (1, 1)])
def test_cut_layers_refuses_wrong_numbers(open_tiny, layers):
    with pytest.raises(ConfigError, match="distinct numbers from 0 to 2"):
        open_tiny(layers)


def test_saved_student_opens_in_sentence_transformers(open_tiny, tmp_path):
    student = open_tiny((0, 2))
    student.save(tmp_path / "student")
    again = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), student.encode_products(TEXTS), atol=1e-5)
    reopened = open_model(str(tmp_path / "student"), query_tokens=8, product_tokens=16)
    np.testing.assert_allclose(reopened.encode_products(TEXTS), student.encode_products(TEXTS), atol=1e-6)


def test_packaged_model_needs_no_network():
    assert find_model("all-MiniLM-L6-v2").endswith("model")
    assert find_model("some/other") == "some/other"


def test_missing_model_is_a_clear_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_model(str(tmp_path / "empty"), query_tokens=8, product_tokens=16)


def test_pickled_weights_are_refused(tiny_model, tmp_path):
    student = SentenceTransformer(str(tiny_model), device="cpu")
    student.save(str(tmp_path / "model"), create_model_card=False)
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(student[0].auto_model.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"pytorch_model\.bin: expected files of a model without code"):
        open_model(str(tmp_path / "model"), query_tokens=8, product_tokens=16)


def test_other_pooling_is_refused(tiny_model, tmp_path):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    model[1].pooling_mode = "cls"
    model.save(str(tmp_path / "cls"), create_model_card=False)
    with pytest.raises(EncoderError, match="mean pooling"):
        open_model(str(tmp_path / "cls"), query_tokens=8, product_tokens=16)
