"""A cross-encoder: query and product are read together, which sees more and cannot be indexed (Vo et al. 2024)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer
from torch import Tensor, nn
from tqdm import tqdm

from indexer.distill.attributes import MARKS
from indexer.distill.chunks import cut_chunks
from indexer.distill.encoders import TextEncoder, TokenRows, Tokens, find_places, pad_tokens

FRAME_TOKENS = 3
"""[CLS] and two [SEP] of a pair."""


class CrossModel(nn.Module):
    """logit = W2 . LayerNorm(W1 . h), h the state of [CLS]; no activation between, no bias, as printed."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body = body
        self.inner = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.outer = nn.Linear(width, 1, bias=False)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return one logit per row of padded pairs."""
        state = self.body(**inputs).last_hidden_state[:, 0]
        logit: Tensor = self.outer(self.norm(self.inner(state))).squeeze(-1)
        return logit


class CrossEncoder:
    """Query and marked product text in one sequence: [CLS] query [SEP] [SEPt] title [SEPp] type [SEPb] brand [SEP]."""

    def __init__(self, encoder: TextEncoder) -> None:
        """Take over the transformer of a text encoder; the head and the marks are drawn from torch's generator."""
        body: Any = encoder.transformer
        self.query_tokens, self.product_tokens = encoder.query_tokens, encoder.product_tokens
        self._tokenizer: Tokenizer = encoder.tokenizer.from_str(encoder.tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.add_special_tokens(
            [AddedToken(mark, special=True, normalized=False) for mark in MARKS.values()]
        )
        body.resize_token_embeddings(
            max(self._tokenizer.get_vocab_size(), body.get_input_embeddings().num_embeddings), mean_resizing=False
        )
        names = encoder.model.tokenizer
        self._first, self._between, self._pad = names.cls_token_id, names.sep_token_id, names.pad_token_id or 0
        self._has_kinds = getattr(body.config, "type_vocab_size", 0) > 1
        self.transformer = CrossModel(body, encoder.dimension).to(encoder.device)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.transformer.parameters()).device

    def tokenise_queries(self, texts: Sequence[str]) -> list[Tokens]:
        """Return token ids without the tokens that frame a text, cut to the query limit."""
        return self._tokenise(texts, self.query_tokens)

    def tokenise_products(self, texts: Sequence[str]) -> list[Tokens]:
        """Return token ids of marked product texts without the tokens that frame a text, cut to the product limit."""
        return self._tokenise(texts, self.product_tokens)

    def score(self, left: Sequence[Tokens], right: Sequence[Tokens], *, bf16: bool = False) -> Tensor:
        """Return the logit of each pair with its gradient; pairs of like length share a pass."""
        pairs = [[self._first, *a, self._between, *b, self._between] for a, b in zip(left, right, strict=True)]
        starts = [len(tokens) + 2 for tokens in left]
        if not pairs:
            return torch.empty(0)
        chunks = cut_chunks([len(pair) for pair in pairs])
        rows = TokenRows(self.transformer.body, pairs, pad_id=self._pad)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            logits = [self._score_chunk(chunk, pairs, starts, rows) for chunk in chunks]
        return torch.cat(logits)[find_places(chunks).to(self.device)]

    def score_frozen(
        self, left: Sequence[Tokens], right: Sequence[Tokens], *, progress: bool = False
    ) -> NDArray[np.float32]:
        """Return the logit of each pair on the CPU, without gradient or dropout."""
        was_training = self.transformer.training
        self.transformer.eval()
        found = [np.empty(0, dtype=np.float32)]
        blocks = range(0, len(left), 4_096)
        with torch.no_grad():
            for start in tqdm(blocks, desc="cross-encoder", unit="block", disable=None if progress else True):
                stop = start + 4_096
                found.append(self.score(left[start:stop], right[start:stop]).float().cpu().numpy())
        self.transformer.train(was_training)
        return np.concatenate(found)

    def _tokenise(self, texts: Sequence[str], limit: int) -> list[Tokens]:
        return [item.ids[:limit] for item in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def _score_chunk(self, chunk: list[int], pairs: list[Tokens], starts: list[int], rows: TokenRows) -> Tensor:
        ids, mask = pad_tokens([pairs[row] for row in chunk], pad_id=self._pad)
        inputs = {**rows.look_up(ids.to(self.device)), "attention_mask": mask.to(self.device)}
        if self._has_kinds:
            second = torch.arange(ids.shape[1]) >= torch.tensor([starts[row] for row in chunk]).unsqueeze(1)
            inputs["token_type_ids"] = (second & mask.bool()).long().to(self.device)
        logit: Tensor = self.transformer(inputs)
        return logit.float()
