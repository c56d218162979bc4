"""Versions that the bytes of a release depend on."""

import platform
from typing import Any

import faiss
import numpy as np
import onnxruntime
import tokenizers

import indexer


def read_versions() -> dict[str, str]:
    """Return name -> version of the code, its libraries and the instruction set FAISS uses here."""
    level: Any = faiss.SIMDConfig
    return {
        "indexer": indexer.__version__,
        "python": platform.python_version(),
        "faiss": faiss.__version__,
        "faiss_simd": str(level.get_level_name()),
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
        "tokenizers": tokenizers.__version__,
        "machine": platform.machine(),
    }
