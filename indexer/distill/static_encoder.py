"""A student without layers: a text's vector is the mean of its tokens' rows, a hundred times faster to compute."""

import json
from types import SimpleNamespace

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F


class TokenTable(nn.Module):
    """The table of a StaticEmbedding in the form of a transformer: a token's state is its row."""

    def __init__(self, bag: nn.EmbeddingBag) -> None:
        super().__init__()
        self.bag = bag

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """Return the states (texts, tokens, dimension) of padded token ids, as `last_hidden_state`."""
        return SimpleNamespace(last_hidden_state=F.embedding(input_ids, self.bag.weight))


def make_static(tokenizer: Tokenizer, vectors: Tensor) -> SentenceTransformer:
    """Return a sentence-transformers model of a token table (vocabulary, dimension), which frames no text."""
    bare = json.loads(tokenizer.to_str())
    # Marks around a text would move every mean by the same rows.
    bare["post_processor"] = None
    plain = Tokenizer.from_str(json.dumps(bare))
    plain.no_truncation()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return SentenceTransformer(
        modules=[StaticEmbedding(plain, embedding_weights=vectors.clone()), Normalize()], device=device
    )
