"""Examples of several sources, in shares: simulated scenes, and files beside them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spa.data.examples import DINO_DIM, Example
from spa.errors import UserError

GOLDEN = (5**0.5 - 1) / 2  # multiples of it, modulo 1, are spread evenly over 0..1
SOURCE = "mixed_source"  # of an example: which one it is of
MOST = 2**30  # examples of a mixture


class Part(NamedTuple):
    """A source by name, where its data lie (None for simulated scenes), its share."""

    source: str
    path: str | None
    share: float


def parse_mix(text: str, known: Sequence[str]) -> list[Part]:
    """Returns the parts of "synthetic:0.8,npz=DIR:0.2", shares summing up to 1. Raises
    UserError."""
    parts = []
    for entry in text.split(","):
        place, _, share = entry.rpartition(":")
        name, has_path, path = place.strip().partition("=")
        try:
            amount = float(share)
        except ValueError:
            amount = np.nan
        if not 0 < amount < np.inf or name not in known:
            raise UserError(
                f"--mix={text}: {entry!r} is not SOURCE:SHARE or SOURCE=PATH:SHARE, "
                f"with a source of {', '.join(known)}"
            )
        if bool(has_path) == (name == "synthetic"):
            raise UserError(
                f"--mix={text}: simulated scenes lie nowhere, and all others "
                f"somewhere: write synthetic:SHARE, {known[-1]}=PATH:SHARE"
            )
        parts.append(Part(name, path or None, amount))
    if sum(part.source == "synthetic" for part in parts) > 1:
        raise UserError(f"--mix={text}: simulated scenes are one source")
    total = sum(part.share for part in parts)
    return [part._replace(share=part.share / total) for part in parts]


class MixedSource:
    """Examples of sources by number, as a random access source for Grain: in any run of
    numbers each source has its share, to an example or two. An epoch is as long as that
    of the source which takes longest to be seen whole."""

    def __init__(self, sources: Sequence, shares: Sequence[float]):
        self.sources, self.ends = list(sources), np.cumsum(shares)
        lengths = [len(s) / share for s, share in zip(sources, shares, strict=True)]
        self.length = int(min(MOST, max(lengths)))
        widths = [getattr(source, "dino_dim", None) for source in sources]
        self.dino_dim = next((width for width in widths if width), DINO_DIM)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        which, number = self.place(index)
        example = self.sources[which][number]
        return example | {SOURCE: np.asarray(which)}

    def place(self, index: int) -> tuple[int, int]:
        """Returns which source an example is of, and its number there."""
        along = (int(index) * GOLDEN) % 1.0
        which = min(int(np.searchsorted(self.ends, along, "right")), len(self.ends) - 1)
        return which, int(index) % len(self.sources[which])

    def expand(self, example: Example, rng: np.random.Generator, num_tracks: int):
        """Returns an example with the tracks that its source draws, if it does."""
        example = dict(example)
        source = self.sources[int(example.pop(SOURCE))]
        if hasattr(source, "expand"):
            return source.expand(example, rng, num_tracks)
        return example

    def name(self, index: int) -> str:
        which, number = self.place(index)
        return self.sources[which].name(number)
