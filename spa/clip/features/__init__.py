"""Feature networks by name. Each is a module of this folder, listed in FEATURES, with

load(options)      a FeatureModel
status(options)    rows of `inference.py --check`

where options is anything that has the network's own as attributes; those that it lacks,
or that are None, take the network's default.
"""

from spa.clip.features import dinov2
from spa.clip.features.dinov2 import DINO_MODEL
from spa.clip.features.maps import FeatureModel, point_features
from spa.errors import FrontEndError

__all__ = ["DINO_MODEL", "FEATURES", "FeatureModel", "load_features", "point_features"]

FEATURES = {"dinov2": dinov2}


def load_features(features: str = "dinov2", options=None) -> FeatureModel:
    """Returns a feature network by name, loaded once for many clips."""
    if features not in FEATURES:
        raise FrontEndError(f"no features {features!r}: have {', '.join(FEATURES)}")
    return FEATURES[features].load(options)
