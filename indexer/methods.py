"""Every distillation method in one table: the settings of `[distill]` in which it differs from the project's recipe.

`[distill] method = "hiss"` in a shop's file takes a row; keys beside it win. Sizes, such as epochs, stay as they are.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

PAPER: Mapping[str, Any] = MappingProxyType(
    {
        **{"gamma": 0.9, "label_loss": "bands", "theta_low": 0.7, "theta_high": 0.85},
        **{"select_by": ("auc",), "select_within": 0.0},
        **{"alpha_labels": 1.0, "alpha_similar": 1.0, "alpha_dissimilar": 1.0, "alpha_teacher": 0.0},
        **{"similar_share": 0.5, "dissimilar_share": 0.5},
        **{"alpha_start": 0.0, "teacher_alpha_start": 0.0, "start_share": 0.0, "scored_share": 0.0},
        **{"alpha_margin": 0.0, "alpha_listwise": 0.0, "alpha_cosent": 0.0},
    }
)
"""KD-Boost as printed, equations 1 to 7, but for AdamW (weight decay .01) where it has Adam; the recovery of a cut
student stands for its ready-made 3-layer start."""

MARGINS_ALONE: Mapping[str, Any] = MappingProxyType(
    {
        **{**PAPER, "gamma": 0.0, "alpha_labels": 0.0, "alpha_margin": 1.0, "select_by": ("ndcg_10",)},
        **{"similar_share": 0.0, "dissimilar_share": 0.0, "teachers": ("cross:all-MiniLM-L6-v2",)},
    }
)

METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # The project's recipe: the defaults of DistillConfig.
        "default": {},
        # Agrawal et al., EMNLP 2023 Industry, and the rows of its table 1.
        "kd-boost": PAPER,
        "direct": {**PAPER, "gamma": 0.0},
        "kd-soft": {**PAPER, "gamma": 1.0},
        # Ankith et al. 2022, as KD-Boost describes it: soft labels and an alignment (reconstruction).
        "hiss": {**PAPER, "gamma": 1.0, "alpha_teacher": 1.0},
        # Nigam et al. 2019: hashed n-grams with their own loss, and taught as in KD-Boost's table 1 (reconstructions).
        "dssm": {
            **{**PAPER, "student_kind": "ngrams", "gamma": 0.0, "label_loss": "thresholds"},
            **{"similar_share": 0.0, "dissimilar_share": 0.0},
        },
        "kd-dssm": {**PAPER, "student_kind": "ngrams", "gamma": 1.0},
        # Shang et al., WWW 2025 companion: margins over many unlabelled pairs (reconstruction from its abstract).
        "augmented": {**PAPER, "alpha_margin": 1.0, "scored_share": 5.0},
        # RTSM, NAACL 2025 Industry: labels by a language model count half (reconstruction from its abstract).
        "rtsm": {**PAPER, "source_weights": {"llm": 0.5}},
        # Vo et al., SIGIR eCom'24: margins of a cross-encoder and nothing else. Its logits are no cosines; the two
        # readings are margins of probabilities, and of logits against cosines times a learned factor.
        "cross-margin": {**MARGINS_ALONE, "cross_scale": "probability"},
        "cross-logits": {**MARGINS_ALONE, "cross_scale": "logit"},
        # arXiv 2210.01701, beside the encoder that it learns from (reconstruction from its abstract).
        "berm": {**PAPER, "teachers": ("all-MiniLM-L6-v2", "berm")},
        # Beyond the papers: KD-Boost for a token table, and with the order of each query's candidates.
        "static": {**PAPER, "student_kind": "static"},
        "listwise": {**PAPER, "alpha_listwise": 0.1},
        "cosent": {**PAPER, "alpha_cosent": 0.1},
    }
)
