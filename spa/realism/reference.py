"""Scores of intact simulated clips, among which others are ranked."""

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
from jaxtyping import Float

from spa.model import checkpoints
from spa.realism.heads import Head, fingerprint
from spa.realism.options import DEFAULT_CHECKPOINT

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Reference:
    """Scores [n] of intact clips that others are ranked among, and the backends (of
    Tracks3D) that they were tracked with."""

    realism: Float[np.ndarray, " n"]
    backends: dict

    def percentile(self, realism: float, backends: dict) -> float | None:
        """Returns the percentage of the clips that score lower, 0 to 100; None for a
        clip that was tracked with something else."""
        if backends != self.backends:
            return None
        return float(100 * np.mean(self.realism < realism))


def read_reference(
    checkpoint: checkpoints.Checkpoint,
    head: Head | None = None,
    folder: Path = DEFAULT_CHECKPOINT.parent,
) -> Reference | None:
    """Reads the reference of a checkpoint and its head.

    It lies beside the shipped checkpoint, in NAME_reference.json. None if there is
    none, if it was made with another checkpoint or head, and if the file is damaged.
    """
    stem = Path(checkpoint.name).stem
    path = folder / f"{stem}_reference.json"
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text())
        is_same = stored["checkpoint"]["sha256"] == checkpoint.sha256
        is_same = is_same and stored.get("head") == fingerprint(head)
        reference = Reference(np.array(stored["realism"], float), stored["backends"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        LOG.warning("%s is damaged, no percentile: %r", path, error)
        return None
    if not is_same or reference.realism.ndim != 1 or not len(reference.realism):
        return None
    return reference
