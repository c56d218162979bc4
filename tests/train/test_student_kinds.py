"""Students that are no transformers: token tables and hashed n-grams; and every method on them and on the others."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from indexer.config_file import build_config, collect_settings
from indexer.distill.encoders import open_model, open_static
from indexer.distill.export import ExportSettings, export_encoder
from indexer.distill.models import train_models
from indexer.distill.ngrams import NgramEncoder, hash_ngrams
from indexer.distill.step import run_distill
from indexer.encoder import open_encoder
from indexer.errors import ConfigError
from indexer.methods import METHODS

pytestmark = pytest.mark.train

TEXTS = ["redcup", "big bag | softpen softhat", "a b c d e"]


@pytest.fixture
def static(tiny_model):
    torch.set_num_threads(1)
    return open_static(str(tiny_model), query_tokens=8, product_tokens=16)


def test_a_static_vector_is_the_mean_of_its_tokens_own(static, open_tiny):
    whole = open_tiny()
    names = [whole.tokenizer.token_to_id(word) for word in ("redcup", "oldpen")]
    frame = whole.tokenizer.encode("").ids
    alone = whole.embed_frozen([[frame[0], name, frame[1]] for name in names])
    expected = torch.nn.functional.normalize(alone.mean(0), dim=0).numpy()
    np.testing.assert_allclose(static.encode_products(["redcup oldpen"])[0], expected, atol=1e-5)
    assert static.tokenise_queries(["redcup oldpen"]) == [names]


def test_a_static_student_opens_anywhere(static, tmp_path):
    static.save(tmp_path / "student")
    found = static.encode_products(TEXTS)
    again = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), found, atol=1e-5)
    base = open_model(str(tmp_path / "student"), query_tokens=8, product_tokens=16)
    np.testing.assert_allclose(base.encode_products(TEXTS), found, atol=1e-6)
    settings = ExportSettings(name="tiny", text_fields=("title",), text_separator="", min_parity=0.9)
    for precision, least in (("fp32", 0.99999), ("int8", 0.98)):
        export_encoder(static, tmp_path / precision, precision=precision, settings=settings, sample=TEXTS)
        opened = open_encoder(tmp_path / precision, threads=1)
        assert (opened.encode_products(TEXTS) * found).sum(1).min() > least
        assert opened.encode([""], kind="query").empty.tolist() == [True]


def test_ngrams_of_a_text_are_words_bigrams_and_framed_trigrams():
    ids = hash_ngrams("Red cup, old", limit=2, bins=1 << 20)
    # Words red and cup, one bigram, trigrams #re red ed# #cu cup up#.
    assert len(ids) == len(set(ids)) == 2 + 1 + 6
    assert ids == hash_ngrams("red CUP", limit=9, bins=1 << 20)
    assert set(hash_ngrams("red", limit=2, bins=1 << 20)) < set(ids)
    assert hash_ngrams("!!", limit=2, bins=10) == [0]
    assert set(hash_ngrams("many words in few bins", limit=9, bins=3)) == {1, 2}


def test_ngram_vectors_by_hand():
    torch.manual_seed(1)
    encoder = NgramEncoder(bins=50, dimension=4, query_tokens=8, product_tokens=8)
    rows = encoder.transformer.bag.weight.detach()
    ids = hash_ngrams("redcup", limit=8, bins=50)
    expected = torch.nn.functional.normalize(rows[ids].mean(0) / (1 + 1e-5) ** 0.5, dim=0)
    np.testing.assert_allclose(encoder.encode_queries(["redcup"])[0], expected.numpy(), atol=1e-6)
    assert encoder.encode_products([]).shape == (0, 4)


def test_a_student_of_ngrams_is_refused_where_it_would_be_exported(config):
    with pytest.raises(ConfigError, match=r"student_kind: a student of ngrams .* cannot be exported"):
        run_distill(replace(config, distill=replace(config.distill, student_kind="ngrams")), "2026-03-01")


def method_settings(name, config, model):
    """The method's row over the settings of a small run, with the tiny model for all others."""
    chosen = build_config(collect_settings(options=[f"distill.method={name}"], environment={})).distill
    names = tuple(teacher.replace("all-MiniLM-L6-v2", str(model)) for teacher in chosen.teachers)
    small = {
        key: getattr(config.distill, key)
        for key in ("learning_rate", "query_tokens", "product_tokens", "validation_share", "test_share")
    }
    return replace(
        chosen,
        **small,
        teachers=names,
        student=str(model),
        student_layers=(0, 2),
        batch_size=64,
        epochs=2,
        switch_epoch=1,
        recovery_epochs=1,
        scored_share=min(chosen.scored_share, 0.5),
        ngram_bins=500,
        ngram_dimension=16,
        mining_low=-1.0,
        mining_high=1.0,
        mining_neighbours=6,
    )


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains(name, config, data, tiny_model, tmp_path):
    torch.set_num_threads(1)
    settings = method_settings(name, config, tiny_model)
    models = train_models(settings, data, tmp_path, progress=False)
    history = models.results["student"].history
    assert all(np.isfinite(row["loss"]) for row in history[1:])
    assert history[-1]["loss"] != history[1]["loss"]
    vectors = models.student.encode_queries(["redcup", "bighat"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert ("teacher" in models.results) == bool(models.encoders)
    assert bool(models.teachers) == (name not in ("direct", "dssm"))
