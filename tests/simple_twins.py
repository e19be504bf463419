"""Impossible twins that cost nothing."""

import dataclasses

import numpy as np

from spa.simulation.twins import NoViolation


def simple_twin(scene, kind):
    """A twin without physics: eight frames are too few for a real one."""
    if kind == "appear":
        raise NoViolation(kind)
    tracks, ids = scene.tracks_3d.copy(), np.unique(scene.instance_ids)[-1:]
    if kind == "teleport":
        tracks[scene.instance_ids == ids, 4:] *= [1.5, 1.5, 1]
    return dataclasses.replace(
        scene, tracks_3d=tracks, violation=kind, violation_frame=4, violating_ids=ids
    )
