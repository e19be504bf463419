"""Parts of the steps that can be exchanged, by name. To add one, list it here.

MATCHERS    take Settings and return a matcher (matching.py)
TRACKERS    take Settings and return a tracker, `tracker(frames, queries=...)`, which
            gives every query a track, in their order (spa.clip.tracking.track)

A segmentation, any of ADE20K's classes that transformers loads, is a name of its own.
"""

from collections.abc import Callable

from spa.clip import tracking
from stereo4d import bootstapir, classes, matching, sea_raft


def _sea_raft(settings):
    names = "sea_raft_repo", "path", "cfg", "device"
    return sea_raft.load(*(getattr(settings, name) for name in names))


def _bootstapir(settings):
    names = "tapnet_repo", "tapir_path", "device"
    return bootstapir.load(*(getattr(settings, name) for name in names))


MATCHERS: dict[str, Callable] = {
    "sgbm": lambda settings: matching.match_sgbm,
    "sea_raft": _sea_raft,
}
TRACKERS: dict[str, Callable] = {
    name: (lambda settings, name=name: tracking.load_tracker(name))
    for name in tracking.TRACKERS
} | {"bootstapir": _bootstapir}


def segmentation(settings) -> Callable | None:
    """Returns the function from frames to maps that settings choose; None for none."""
    chosen = settings.segmentation
    return None if chosen == "none" else classes.load(chosen)
