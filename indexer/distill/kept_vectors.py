"""Vectors of a frozen encoder on disk, by its weights and the texts: what was embedded once is read back."""

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from indexer import __version__
from indexer.distill.checkpoints import replace_file
from indexer.distill.encoders import TextEncoder, Tokens
from indexer.distill.processes import ALONE, Processes
from indexer.distill.scoring import share_texts
from indexer.errors import IntegrityError
from indexer.runs import fingerprint


def embed_kept(encoder: TextEncoder, texts: Sequence[Tokens], folder: Path, *, processes: Processes = ALONE) -> Tensor:
    """Return the unit vectors of the texts, (texts, dimension), and leave them in the folder.

    Raises IntegrityError where a file is damaged.
    """
    file = folder / f"{fingerprint(__version__, *_identify(encoder.transformer), hash_tokens(texts))[:24]}.npz"
    if not processes.all_agree(file.exists()):
        vectors = share_texts(encoder.embed_frozen, texts, processes).numpy()
        if processes.is_first:
            # Not by np.save, which does not notice that the end of a file did not fit.
            replace_file(file, lambda path: np.savez(path, vectors=vectors))
        processes.wait()
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return torch.from_numpy(arrays["vectors"])
    except (ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise IntegrityError(f"vectors {file}: cannot be read: {error}; delete the file to embed again") from None


def _identify(transformer: nn.Module) -> list[str]:
    """Return what a transformer computes: its class, its configuration and its weights."""
    config: Any = getattr(transformer, "config", None)
    return [type(transformer).__name__, config.to_json_string() if config else "", hash_weights(transformer)]


def hash_weights(module: nn.Module) -> str:
    """Return the SHA-256 of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def hash_tokens(texts: Sequence[Tokens]) -> str:
    """Return the SHA-256 of the texts as token ids, in their order."""
    digest = hashlib.sha256()
    for tokens in texts:
        digest.update(np.array([len(tokens), *tokens], dtype=np.int64).tobytes())
    return digest.hexdigest()
