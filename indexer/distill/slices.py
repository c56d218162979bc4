"""Parts of the judged queries in which a model may do well or badly apart: short, long, misspelled, rarely asked."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LONGEST = 5
"""Queries of more words than this form one slice (KD-Boost table 6)."""
KNOWN_FROM = 3
"""A word is known that stands so often in titles and training queries."""
MIN_LETTERS = 4
"""Everything lies within two edits of a shorter word."""
MAX_EDITS = 2
TAIL_TRAFFIC = 1 / 3

Mask = NDArray[np.bool_]


class Traffic(NamedTuple):
    """Purchases after queries."""

    own: NDArray[np.int64]
    """After each of the judged queries."""
    shop: NDArray[np.int64]
    """After each query of the shop that has any."""


def slice_queries(queries: Sequence[str], texts: Iterable[str], traffic: Traffic | None = None) -> dict[str, Mask]:
    """Return the queries of each slice as a mask; slices without a query are left out.

    `texts` are titles and training queries, whose words are known; a shop without purchases has no traffic.
    """
    found = {**length_slices(queries), "misspelled": find_misspelled(queries, texts)}
    if traffic is not None:
        found["tail"] = find_tail(traffic)
    return {name: mask for name, mask in found.items() if mask.any()}


def length_slices(queries: Sequence[str]) -> dict[str, Mask]:
    """Return one slice per number of words, those above LONGEST together."""
    words = np.minimum([len(query.split()) for query in queries], LONGEST + 1)
    names = [*(f"{count} word{'s' * (count > 1)}" for count in range(1, LONGEST + 1)), f"over {LONGEST} words"]
    return {name: words == count for count, name in enumerate(names, start=1)}


def find_misspelled(queries: Sequence[str], texts: Iterable[str]) -> Mask:
    """Tell which queries have a word that is not known and lies within two edits of one that is."""
    counts = Counter(word for text in texts for word in text.lower().split())
    known = {word for word, count in counts.items() if count >= KNOWN_FROM}
    lengths = _by_length(known)
    unknown = {word for query in queries for word in query.split() if len(word) >= MIN_LETTERS and word not in known}
    misspelled = {word for word in unknown if word.isalpha() and _has_neighbour(word, lengths)}
    return np.array([not misspelled.isdisjoint(query.split()) for query in queries], dtype=np.bool_)


def find_tail(traffic: Traffic) -> Mask:
    """Tell which judged queries are among the least bought that make up a third of all purchases together."""
    amounts = np.sort(traffic.shop)
    within = np.searchsorted(np.cumsum(amounts), TAIL_TRAFFIC * amounts.sum(), side="right")
    # Queries bought equally often belong together: to the tail only if all of them do.
    limit = amounts[within] if within < len(amounts) else np.inf
    tail: Mask = traffic.own < limit
    return tail


def misspell_queries(queries: Sequence[str], *, seed: int) -> list[str]:
    """Return each query with one typo: in a word of at least MIN_LETTERS letters, two neighbours behind the first swap.

    A query without such a word stays. The typo depends on the query and the seed alone.
    """
    return [_misspell(query, np.random.default_rng([seed, *query.encode()])) for query in queries]


def _misspell(query: str, rng: np.random.Generator) -> str:
    words = query.split(" ")
    places = [
        (number, at)
        for number, word in enumerate(words)
        if len(word) >= MIN_LETTERS
        for at in range(1, len(word) - 1)
        if word[at] != word[at + 1]
    ]
    if not places:
        return query
    number, at = places[rng.integers(len(places))]
    word = words[number]
    words[number] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def _by_length(words: Iterable[str]) -> dict[int, NDArray[np.int32]]:
    """Return the words of each length as (words, length) code points."""
    groups: dict[int, list[list[int]]] = {}
    for word in sorted(words):
        groups.setdefault(len(word), []).append([ord(letter) for letter in word])
    return {length: np.array(rows, dtype=np.int32) for length, rows in groups.items()}


def _has_neighbour(word: str, words: Mapping[int, NDArray[np.int32]]) -> bool:
    near = range(len(word) - MAX_EDITS, len(word) + MAX_EDITS + 1)
    return any((edit_distances(word, words[length]) <= MAX_EDITS).any() for length in near if length in words)


def edit_distances(word: str, words: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the Levenshtein distance of a word to each of many of one length, (words, length) code points."""
    row = np.tile(np.arange(words.shape[1] + 1), (len(words), 1))
    for typed, letter in enumerate(word, start=1):
        before, row = row, np.full_like(row, typed)
        for at in range(1, row.shape[1]):
            changed = before[:, at - 1] + (words[:, at - 1] != ord(letter))
            row[:, at] = np.minimum(np.minimum(before[:, at], row[:, at - 1]) + 1, changed)
    distances: NDArray[np.int64] = row[:, -1]
    return distances
