"""Passes of texts of like length: nothing is lost, and no other grouping by length costs less."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.distill import chunks
from indexer.distill.chunks import PASS_TOKENS, cut_chunks

pytestmark = pytest.mark.train


def cost(groups):
    """Tokens with their padding, and what passes cost, of groups of lengths."""
    padded = [len(group) * max(group) for group in groups]
    return sum(padded) + sum(PASS_TOKENS * math.ceil(size / chunks.MAX_CHUNK_TOKENS) for size in padded)


def every_grouping(lengths):
    """All ways to cut the distinct lengths, in order, into runs."""
    sizes = sorted(set(lengths))
    for marks in itertools.product((False, True), repeat=len(sizes) - 1):
        groups, group = [], []
        for size, cut in zip(sizes, (*marks, True), strict=True):
            group += [length for length in lengths if length == size]
            if cut:
                groups.append(group)
                group = []
        yield groups


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60).filter(lambda found: len(set(found)) <= 9))
def test_no_grouping_by_length_costs_less(lengths):
    found = cut_chunks(lengths)
    assert sorted(itertools.chain(*found)) == list(range(len(lengths)))
    assert cost([[lengths[row] for row in chunk] for chunk in found]) == min(map(cost, every_grouping(lengths)))


def test_many_texts_are_cut_into_even_passes_of_bounded_size(monkeypatch):
    monkeypatch.setattr(chunks, "MAX_CHUNK_TOKENS", 100)
    found = cut_chunks([10] * 24 + [300])
    assert [len(chunk) for chunk in found] == [8, 8, 8, 1]
    assert cut_chunks([]) == []
