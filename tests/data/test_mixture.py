"""Mixtures of sources: shares, what they give, and what cannot be asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spa.data.mixture import MixedSource, Part, parse_mix
from spa.errors import UserError

KNOWN = ("synthetic", "kubric", "npz")


class Numbers:
    """A source whose examples say which they are."""

    def __init__(self, letter, length):
        self.letter, self.length = letter, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        assert 0 <= index < self.length
        return {"letter": np.asarray(self.letter), "number": np.asarray(index)}

    def name(self, index):
        return f"{self.letter}{index}"


class Drawing(Numbers):
    def expand(self, example, rng, num_tracks):
        return example | {"drawn": np.asarray(num_tracks)}


@settings(max_examples=30, deadline=None)
@given(
    shares=st.lists(st.floats(0.05, 1), min_size=2, max_size=4),
    start=st.integers(0, 10_000),
)
def test_every_run_of_numbers_has_the_shares(shares, start):
    shares = np.array(shares) / np.sum(shares)
    sources = [Numbers(i, 7 + i) for i in range(len(shares))]
    mixed = MixedSource(sources, shares)
    which = [mixed.place(i)[0] for i in range(start, start + 200)]
    counts = np.bincount(which, minlength=len(shares))
    assert (np.abs(counts - 200 * shares) < 6).all()


def test_each_source_is_seen_whole_and_examples_are_its_own():
    mixed = MixedSource([Numbers("a", 40), Numbers("b", 3)], [0.8, 0.2])
    assert len(mixed) == 50
    found = [mixed[i] for i in range(10 * len(mixed))]
    seen = {(str(x["letter"]), int(x["number"])) for x in found}
    assert {("b", i) for i in range(3)} <= seen and len(seen) == 43
    for i in (0, 1, 2, 3, 17):
        assert mixed.name(i) == f"{mixed[i]['letter']}{mixed[i]['number']}"


def test_sources_that_draw_tracks_still_do():
    mixed = MixedSource([Numbers("a", 5), Drawing("b", 5)], [0.5, 0.5])
    for i in range(10):
        example = mixed.expand(mixed[i], np.random.default_rng(0), 12)
        assert ("drawn" in example) == (str(example["letter"]) == "b")
        assert set(example) <= {"letter", "number", "drawn"}


def test_a_mixture_is_read_from_text():
    found = parse_mix("synthetic:3,npz=a/b=c:1", KNOWN)
    assert found == [Part("synthetic", None, 0.75), Part("npz", "a/b=c", 0.25)]


@pytest.mark.parametrize(
    "text",
    ["", "synthetic", "npz:0.5", "synthetic=x:1", "npz=a:0", "npz=a:x", "other=a:1",
     "synthetic:1,synthetic:1", "npz=a:inf"],
)  # fmt: skip
def test_what_is_no_mixture_ends_in_a_line(text):
    with pytest.raises(UserError, match="--mix") as caught:
        parse_mix(text, KNOWN)
    assert "\n" not in str(caught.value)
