"""Vectors that were embedded once are read back, those of other weights or texts are not."""

import pytest
import torch

from indexer.distill.kept_vectors import embed_kept
from indexer.errors import IntegrityError

pytestmark = pytest.mark.train


class CountingEncoder:
    """Counts how often the encoder it stands for is asked."""

    def __init__(self, encoder):
        self.encoder, self.transformer, self.asked = encoder, encoder.transformer, 0

    def embed_frozen(self, texts):
        self.asked += 1
        return self.encoder.embed_frozen(texts)


def test_only_new_weights_and_new_texts_are_embedded(open_tiny, tmp_path):
    encoder = CountingEncoder(open_tiny())
    texts = encoder.encoder.tokenise_queries(["redcup", "big hat"])
    first = embed_kept(encoder, texts, tmp_path)
    assert torch.equal(first, encoder.encoder.embed_frozen(texts))
    again = embed_kept(encoder, texts, tmp_path)
    assert torch.equal(first, again)
    assert encoder.asked == 1
    # The same ids cut elsewhere are other texts.
    joined = [[*texts[0][:-1]], [texts[0][-1], *texts[1]]]
    assert not torch.equal(embed_kept(encoder, joined, tmp_path), first)
    assert encoder.asked == 2
    with torch.no_grad():
        next(iter(encoder.transformer.parameters())).view(-1)[0].add_(1e-3)
    embed_kept(encoder, texts, tmp_path)
    assert encoder.asked == 3


def test_a_damaged_file_is_named(open_tiny, tmp_path):
    encoder = open_tiny()
    texts = encoder.tokenise_queries(["redcup"])
    embed_kept(encoder, texts, tmp_path)
    (file,) = tmp_path.glob("*.npz")
    file.write_bytes(file.read_bytes()[:150])
    with pytest.raises(IntegrityError, match=file.name):
        embed_kept(encoder, texts, tmp_path)
