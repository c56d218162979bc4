"""Labels and queries made by a language model; the file it writes is one more input of labels.

What two generations do not agree on is left out (RTSM, NAACL 2025 Industry, names labels made by a language model;
prompts and agreement filter are this project's).
"""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from indexer.contracts import schemas
from indexer.contracts.inputs import LABEL_OF_GRADE, open_input
from indexer.contracts.rejects import InputCounts
from indexer.distill.judgements import read_product_texts
from indexer.distill.llm_client import ChatClient, NoAnswerError
from indexer.distill.query_pairs import smallest_hashes
from indexer.errors import ConfigError, ContractError, StoreError
from indexer.input_config import GRADES, CatalogueConfig, PairsConfig
from indexer.text import normalise_query

SOURCE = "llm"
FORMULA = ("=", "+", "-", "@", "\t")
"""What a cell begins with that a spreadsheet computes."""
COLUMNS = ("query", "product_id", "label", "source")
WORD_OF_GRADE = ("irrelevant", "complement", "substitute", "exact")
QUESTIONS_AT_ONCE = 1_000

LABEL_PROMPT = """\
You judge search results of an online shop.
Query: {query}
Product: {product}
How well does the product answer the query?
exact: it is what the query asks for, in every respect that the query names.
substitute: it is not quite that, but would serve instead.
complement: it does not serve instead, but goes with what is asked for.
irrelevant: none of these.
Answer with JSON alone: {"label": "exact"}, or the other word that holds.
"""
QUERIES_PROMPT = """\
Write search queries as shoppers of an online shop type them: short, in lower case, without the brand unless they
would name it.
Product: {product}
Write one query to which the product is exact (it is what the query asks for), one to which it is a substitute (not
quite that, but it would serve), and one to which it is irrelevant although the words look alike.
Answer with JSON alone: {"queries": [{"query": "...", "label": "exact"}, {"query": "...", "label": "substitute"},
{"query": "...", "label": "irrelevant"}]}
"""


@dataclass(frozen=True)
class Question:
    """A pair to label, or a product to write queries for (query empty)."""

    query: str
    product_id: str
    product: str


@dataclass
class Labelling:
    """Labels with the account of the questions: every one has its labels or a reason."""

    counts: InputCounts
    labels: list[tuple[str, str, str, str]] = field(default_factory=list)
    """Rows of COLUMNS."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Why written queries were left out of products that have others."""

    def add(self, question: Question, outcome: "Outcome") -> None:
        """Keep what a question gave; a question without any label is rejected for its last reason."""
        for query, grade in outcome.labels:
            self.labels.append((query, question.product_id, WORD_OF_GRADE[grade], SOURCE))
        if outcome.labels:
            self.counts.rows_out += 1
            self.left_out.update(reason for reason, _ in outcome.reasons)
        else:
            reason, sample = outcome.reasons[-1]
            self.counts.reject(reason, key=f"{question.query} / {question.product_id}", sample=sample)


@dataclass
class Outcome:
    """(query, grade) labels of one question, and the reasons for those that were left out."""

    labels: list[tuple[str, int]] = field(default_factory=list)
    reasons: list[tuple[str, str]] = field(default_factory=list)


def label_pairs(
    pairs: PairsConfig, catalogue: CatalogueConfig, client: ChatClient, *, prompt: str, progress: bool = True
) -> Labelling:
    """Label (query, product) pairs twice each, and keep those whose two labels agree."""
    reader = open_input(schemas.PAIRS, pairs)
    given = [
        (normalise_query(query), product_id)
        for batch in reader
        for query, product_id in zip(batch["query"].to_pylist(), batch["product_id"].to_pylist(), strict=True)
    ]
    counts, asked = reader.counts, list(dict.fromkeys(given))
    counts.rows_out = 0
    if len(given) > len(asked):
        counts.reject("duplicate", count=len(given) - len(asked))
    texts, _ = read_product_texts(catalogue, {product_id for _, product_id in asked})
    found = Labelling(counts)
    questions = []
    for query, product_id in asked:
        if not query or product_id not in texts:
            reason = "product_unknown" if query else "query_empty"
            counts.reject(reason, key=f"{query} / {product_id}", sample=product_id)
        else:
            questions.append(Question(query, product_id, texts[product_id]))
    return _ask_all(found, questions, lambda question: _label_pair(question, client, prompt), client, progress)


def make_queries(
    catalogue: CatalogueConfig, client: ChatClient, *, products: int, seed: int, prompt: str, progress: bool = True
) -> Labelling:
    """Have queries written for so many products of the catalogue, and keep those that a second look labels alike."""
    ids = (item for batch in open_input(schemas.CATALOGUE, catalogue) for item in batch["product_id"].to_pylist())
    texts, _ = read_product_texts(catalogue, smallest_hashes(ids, limit=products, key=str(seed)))
    questions = [Question("", product_id, text) for product_id, text in sorted(texts.items())]
    found = Labelling(InputCounts(schemas.CATALOGUE.name, catalogue.path, rows_in=len(questions)))
    return _ask_all(found, questions, lambda question: _write_queries(question, client, prompt), client, progress)


def read_prompt(path: str, *, default: str, names: Iterable[str]) -> str:
    """Return the prompt of a file, or the default without one; raises ConfigError where it lacks a `{name}`."""
    if not path:
        return default
    try:
        prompt = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"[llm] prompt {path}: cannot be read: {error}") from None
    missing = [name for name in names if f"{{{name}}}" not in prompt]
    if missing:
        raise ConfigError(f"[llm] prompt {path}: expected {{{missing[0]}}} where the {missing[0]} shall stand")
    return prompt


def write_labels(found: Labelling, path: Path) -> None:
    """Write the labels as CSV, whole or not at all; raises ContractError where there are none."""
    if not found.labels:
        worst = Counter({reason: entry.count for reason, entry in found.counts.rejects.items()}).most_common(3)
        reasons = ", ".join(f"{reason} {count}" for reason, count in worst) or "nothing was asked"
        raise ContractError(f"{path}: no label to write ({reasons}); nothing was written")
    draft = path.with_name(f".{path.name}.tmp")
    try:
        with draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(found.labels)
        os.replace(draft, path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}; give another --output") from None


def parse_label(answer: str) -> int:
    """Return the grade that an answer names; raises ValueError where it names none."""
    return _read_grade(_read_json(answer))


def parse_queries(answer: str) -> list[tuple[str, int]]:
    """Return the (query, grade) pairs of an answer; raises ValueError on another form."""
    queries = _read_json(answer).get("queries")
    if not isinstance(queries, list) or not queries or not all(isinstance(item, Mapping) for item in queries):
        raise ValueError("no list of queries")
    found = [(normalise_query(str(item.get("query") or "")), _read_grade(item)) for item in queries]
    return [(query, grade) for query, grade in found if query]


def fill_prompt(prompt: str, **values: str) -> str:
    """Put values where their names stand in braces; other braces are left as they are."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), prompt)


def _ask_all(
    found: Labelling,
    questions: list[Question],
    answer: Callable[[Question], Outcome],
    client: ChatClient,
    progress: bool,
) -> Labelling:
    """Ask in the order of the questions, several at a time."""
    bar = tqdm(total=len(questions), desc="label", unit="question", disable=None if progress else True)
    rest: Iterator[Question] = iter(questions)
    with bar, ThreadPoolExecutor(client.config.parallel) as pool, _ending(client):
        while block := list(islice(rest, QUESTIONS_AT_ONCE)):
            for question, outcome in zip(block, pool.map(answer, block), strict=True):
                found.add(question, outcome)
                bar.update()
                bar.set_postfix({name: client.counts[name] for name in ("requests", "tokens")})
    return found


@contextmanager
def _ending(client: ChatClient) -> Iterator[None]:
    """Have no thread try again where the block is left by an error, or by who stops it."""
    try:
        yield
    except BaseException:
        client.end()
        raise


def _label_pair(question: Question, client: ChatClient, prompt: str) -> Outcome:
    text = fill_prompt(prompt, query=question.query, product=question.product)
    try:
        grades = [client.ask(text, generation=number, parse=parse_label) for number in (1, 2)]
    except NoAnswerError as error:
        return Outcome(reasons=[(error.reason, error.sample)])
    return _agree(question.query, *grades)


def _write_queries(question: Question, client: ChatClient, prompt: str) -> Outcome:
    try:
        written = client.ask(fill_prompt(prompt, product=question.product), generation=1, parse=parse_queries)
    except NoAnswerError as error:
        return Outcome(reasons=[(error.reason, error.sample)])
    whole = Outcome()
    for query, grade in written:
        one = _look_again(question.product, query, grade, client)
        whole = Outcome(whole.labels + one.labels, whole.reasons + one.reasons)
    return whole if whole.labels or whole.reasons else Outcome(reasons=[("answer_malformed", "no query")])


def _look_again(product: str, query: str, grade: int, client: ChatClient) -> Outcome:
    """Keep a written query where a second look gives it the same label."""
    if query.startswith(FORMULA):
        # No shopper types it; a seller's title may have led the model to it, for whoever opens the CSV.
        return Outcome(reasons=[("query_formula", query)])
    text = fill_prompt(LABEL_PROMPT, query=query, product=product)
    try:
        return _agree(query, grade, client.ask(text, generation=2, parse=parse_label))
    except NoAnswerError as error:
        return Outcome(reasons=[(error.reason, error.sample)])


def _agree(query: str, first: int, second: int) -> Outcome:
    """Keep a label that both generations give, the lower of two grades of one label."""
    if LABEL_OF_GRADE[first] == LABEL_OF_GRADE[second]:
        return Outcome(labels=[(query, min(first, second))])
    return Outcome(reasons=[("disagreement", f"{WORD_OF_GRADE[first]} and {WORD_OF_GRADE[second]}")])


def _read_json(answer: str) -> dict[str, Any]:
    """Return the JSON object of an answer that may have words or a fence around it; raises ValueError without one."""
    start, end = answer.find("{"), answer.rfind("}")
    try:
        document = json.loads(answer[start : end + 1]) if 0 <= start < end else None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    return document


def _read_grade(document: Mapping[str, Any]) -> int:
    grade = GRADES.get(str(document.get("label")).strip().lower())
    if grade is None:
        raise ValueError("no known label")
    return grade
