"""A random BERT of 3 layers and width 32, and a shop of a few hundred labels, so that training takes seconds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizerFast

from indexer.config import Config
from indexer.distill.data import QueryTables, assemble_data, find_held_out
from indexer.distill.encoders import open_model
from indexer.distill.judgements import Judgements, LabelledPairs
from indexer.distill_config import DistillConfig
from indexer.methods import PAPER

WORDS = [
    f"{first}{second}" for first in ("red", "blue", "big", "old", "soft") for second in ("cup", "hat", "bag", "pen")
]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A folder that sentence-transformers opens; weights drawn with seed 1."""
    folder = tmp_path_factory.mktemp("tiny")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "|", *WORDS, *letters, *(f"##{x}" for x in letters)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    model = SentenceTransformer(
        modules=[Transformer(str(folder / "bert")), Pooling(32, pooling_mode="mean"), Normalize()], device="cpu"
    )
    model.save(str(folder / "model"), create_model_card=False)
    return folder / "model"


@pytest.fixture
def open_tiny(tiny_model):
    """Open the tiny model afresh, by default with all its layers."""
    torch.set_num_threads(1)
    return lambda layers=(): open_model(str(tiny_model), query_tokens=8, product_tokens=16, layers=layers)


@pytest.fixture
def config() -> Config:
    """Settings of a small run by the paper: both phases of equation 5 and 6 fall into three epochs."""
    return Config(
        distill=DistillConfig(
            **{**PAPER, "select_by": DistillConfig().select_by},
            epochs=3,
            switch_epoch=1,
            patience=3,
            batch_size=16,
            learning_rate=1e-3,
            query_tokens=8,
            product_tokens=16,
            validation_share=0.25,
            test_share=0.15,
            mining_neighbours=6,
            mining_low=-1.0,
            mining_high=1.0,
            checkpoint_steps=2,
            threads=1,
        )
    )


@pytest.fixture
def data(config):
    """Twenty queries of one word each; a product is relevant if it holds the word; one noun is one node."""
    rng = np.random.default_rng(5)
    products = [" ".join(rng.choice(WORDS, size=rng.integers(1, 6))) for _ in range(60)]
    rows = [(query, product) for query in range(len(WORDS)) for product in rng.permutation(60)[:12]]
    grade = [3 if WORDS[query] in products[product] else int(rng.integers(0, 3)) for query, product in rows]
    judgements = Judgements(
        queries=list(WORDS),
        product_ids=[f"p{number:02d}" for number in range(60)],
        products=products,
        pairs=LabelledPairs(
            query=np.array([query for query, _ in rows]),
            product=np.array([product for _, product in rows]),
            grade=np.array(grade),
            weight=np.ones(len(rows), dtype=np.float32),
        ),
    )
    found = QueryTables(
        similar=[(a, b) for a in WORDS for b in WORDS if a < b and a[-3:] == b[-3:]],
        dissimilar=[("bighat", "bigpen"), ("redcup", "redhat")],
        nodes={word: frozenset([word[-3:]]) for word in WORDS},
        mining=sorted(set(WORDS) - find_held_out(WORDS, config.distill)),
    )
    return assemble_data(judgements, found, config=config)
