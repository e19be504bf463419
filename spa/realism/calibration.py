"""What a logit means: the share of intact clips that look no more real."""

import dataclasses

import numpy as np
import scipy.special
from jaxtyping import Float

TAIL = 0.2  # share of the reference that its upper tail is fitted to
HALF = 0.995  # quantile of intact points' logits at which coords_score is a half
FEWEST = 10  # clips that a tail can be fitted to
# What the clips of a reference are; of the first, a score means what it says.
UNSEEN = "filmed clips that the judging critic never saw"
SEEN = "filmed clips that were learned from"
SIMULATED = "simulated clips"


def meaning(realism: float, clips: str = UNSEEN) -> str:
    """Returns what a clip's realism says, for a person to read; of a calibration on
    these `clips`."""
    count, of = round(100 * realism), "real clips" if clips == UNSEEN else clips
    which = f"{count} look" if count != 1 else "1 looks"
    return f"of 100 {of}, {which if count else 'not one looks'} no more real"


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The logits of intact clips that nothing was fitted to, and what follows.

    Attributes:
        reference: [n] logits of clips, rising.
        half: logit of a point at which its score is a half.
        backends: of Tracks3D, that the clips were tracked with.
        clips: what the reference's are.
    """

    reference: Float[np.ndarray, " n"]
    half: float
    backends: dict = dataclasses.field(default_factory=dict)
    clips: str = UNSEEN

    def __post_init__(self):
        """Raises ValueError: too few clips, or all alike; numbers that are not
        finite."""
        values = np.sort(np.asarray(self.reference, np.float64))
        if values.ndim != 1 or len(values) < FEWEST:
            raise ValueError(f"a reference needs {FEWEST} clips")
        if not np.isfinite([*values, self.half]).all():
            raise ValueError("a calibration's numbers must be finite")
        object.__setattr__(self, "reference", values)
        _, below = self._distribution()
        if below[0] >= TAIL or below[-1] <= 1 - TAIL:
            raise ValueError("the clips of a reference are all alike")

    @classmethod
    def fit(
        cls,
        logits: Float[np.ndarray, " n"],
        point_logits: Float[np.ndarray, " m"],
        backends: dict | None = None,
        clips: str = UNSEEN,
    ) -> "Calibration":
        """Returns the calibration of intact clips' logits, and of intact points', whose
        clips may be others: one in 200 of these scores below a half. Raises ValueError
        as the calibration itself, and without points."""
        if not len(point_logits):
            raise ValueError("it says no number of any intact point")
        half = float(np.quantile(np.asarray(point_logits, np.float64), HALF))
        return cls(np.asarray(logits), half, backends or {}, clips)

    def realism(self, logit: Float[np.ndarray, "*B"]) -> Float[np.ndarray, "*B"]:
        """Returns the share of intact clips whose logit is at least as high, in (0, 1):
        continuous, and falling strictly as far as floats go.

        Between the reference's 20% and 80% quantiles and down to its lowest, the
        interpolated empirical distribution (Hazen's positions). Above the 80% quantile
        an exponential tail whose scale is the mean excess over it (peaks over threshold
        with shape 0; Coles, 2001): 30 clips alone know nothing below 0.03. Below the
        lowest the same goes on to 1, with the mean shortfall under the 20% quantile.
        """
        x = np.asarray(logit, np.float64)
        values, below = self._distribution()
        low, high = np.interp([TAIL, 1 - TAIL], below, values)
        excess = (self.reference[self.reference > high] - high).mean()
        shortfall = (low - self.reference[self.reference < low]).mean()
        middle = 1 - np.interp(x, values, below)
        upper = TAIL * np.exp(-np.maximum(x - high, 0) / excess)
        lower = 1 - below[0] * np.exp(np.minimum(x - values[0], 0) / shortfall)
        found = np.where(x > high, upper, np.where(x < values[0], lower, middle))
        # Where floats end.
        found = np.clip(found, np.finfo(float).tiny, 1 - np.finfo(float).epsneg)
        return found if found.ndim else float(found)

    def points(self, logits: Float[np.ndarray, "*B"]) -> Float[np.ndarray, "*B"]:
        """Returns coords_score of points' logits, in 0..1, higher is more real."""
        return scipy.special.expit(self.half - np.asarray(logits)).astype(np.float32)

    def _distribution(self):
        """Returns distinct logits, and the shares of clips below them."""
        values, where = np.unique(self.reference, return_inverse=True)
        positions = (np.arange(len(self.reference)) + 0.5) / len(self.reference)
        return values, np.bincount(where, positions) / np.bincount(where)
