"""Slices of the judged queries against cases worked by hand."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.distill.slices import (
    Traffic,
    edit_distances,
    find_misspelled,
    find_tail,
    length_slices,
    misspell_queries,
    slice_queries,
)


def code_points(words):
    return np.array([[ord(letter) for letter in word] for word in words])


def plain_distance(a, b):
    if not a or not b:
        return len(a) + len(b)
    swap = plain_distance(a[1:], b[1:]) + (a[0] != b[0])
    return min(plain_distance(a[1:], b) + 1, plain_distance(a, b[1:]) + 1, swap)


def test_worked_distances():
    assert edit_distances("kitten", code_points(["sitting", "kittens", "mittenx"])).tolist() == [3, 1, 2]
    assert edit_distances("mug", code_points(["gum"])).tolist() == [2]


@given(st.text("ab", min_size=1, max_size=5))
def test_distances_equal_a_plain_recursion(word):
    words = ["".join(letters) for letters in product("abc", repeat=3)]
    assert edit_distances(word, code_points(words)).tolist() == [plain_distance(word, other) for other in words]


def test_lengths():
    found = length_slices(["mug", "red mug", "a b c d e", "a b c d e f", "a b c d e f g"])
    assert {name: np.flatnonzero(mask).tolist() for name, mask in found.items() if mask.any()} == {
        "1 word": [0],
        "2 words": [1],
        "5 words": [2],
        "over 5 words": [3, 4],
    }


def test_misspelled_is_unknown_but_near_a_known_word():
    texts = ["Kitchen towels"] * 3 + ["kitchin"] * 2 + ["usb3 tea"] * 9
    cases = {
        "kitchen towels": False,
        # Seen twice only.
        "kitchin towels": True,
        "kithcen": True,
        # Three edits.
        "kitchxyz": False,
        # Near `tea`, but too short to tell; and a model number.
        "ted": False,
        "usb4x": False,
    }
    assert find_misspelled(list(cases), texts).tolist() == list(cases.values())


def test_tail_is_the_least_bought_third_of_the_traffic():
    # 1 + 2 + 3 + 4 + 20 = 30 purchases: a third is 10, which the four rarest make.
    found = find_tail(Traffic(own=np.array([20, 4, 1, 0]), shop=np.array([20, 4, 3, 2, 1])))
    assert found.tolist() == [False, True, True, True]
    # All bought alike: the tail would cut through equals, so there is none.
    assert find_tail(Traffic(own=np.array([2, 2]), shop=np.array([2, 2]))).tolist() == [False, False]
    assert find_tail(Traffic(own=np.array([0]), shop=np.array([], dtype=np.int64))).tolist() == [True]


@given(st.lists(st.text("abcdé ", max_size=12)), st.integers(0, 9))
def test_a_typo_swaps_two_letters_or_nothing(queries, seed):
    for query, typo in zip(queries, misspell_queries(queries, seed=seed), strict=True):
        changed = [at for at, (a, b) in enumerate(zip(query, typo, strict=True)) if a != b]
        assert not changed or changed == [changed[0], changed[0] + 1]
        assert sorted(query) == sorted(typo)
    assert misspell_queries(queries, seed=seed) == misspell_queries(queries, seed=seed)


@pytest.mark.parametrize(("query", "changes"), [("red mug", False), ("steel mug", True), ("aaaa", False)])
def test_short_words_keep_their_spelling(query, changes):
    assert (misspell_queries([query], seed=1)[0] != query) == changes


def test_empty_slices_are_left_out():
    assert list(slice_queries(["red mug"], [])) == ["2 words"]
    asked = Traffic(own=np.array([1]), shop=np.array([1, 3]))
    assert list(slice_queries(["red mug"], [], asked)) == ["2 words", "tail"]
