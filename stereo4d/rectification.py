"""Raw frames of both eyes to rectified perspective ones, frame by frame."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from spa import geometry
from spa.errors import UserError
from stereo4d import equirect, rig
from stereo4d.layouts import check_pair
from stereo4d.optimisation import Stereo

LOG = logging.getLogger(__name__)
PROJECTIONS = ("equirect", "perspective")
RIG_FRAMES = 5  # that a rig's turns are found from, evenly spread
LEAST_SHARPNESS = 0.5  # of the rectified pictures' pixels a degree
ROWS_CHECKED = 3  # frames whose rows are looked at after rectifying
Picture = UInt8[np.ndarray, "H W 3"]


@dataclasses.dataclass(frozen=True)
class View:
    """What the rectified pictures are to be, and what the raw ones are.

    Attributes:
        projection: of the raw pictures, one of PROJECTIONS.
        fov_bounds: what the raw ones show, degrees; of perspective ones yaw counts.
        output_hfov: degrees that the rectified ones' width spans.
        size: (height, width) of the rectified ones, px.
        baseline: metres between the eyes.
    """

    projection: str = "equirect"
    fov_bounds: tuple[float, float, float, float] = equirect.FIELD_OF_VIEW
    output_hfov: float = 60.0
    size: tuple[int, int] = (512, 512)
    baseline: float = 0.063

    @property
    def intrinsics(self) -> Float[np.ndarray, "4"]:
        """(fx, fy, cx, cy) of the rectified pictures, px."""
        return equirect.perspective_intrinsics(self.size, self.output_hfov)

    @property
    def stereo(self) -> Stereo:
        """The rectified pair."""
        return Stereo(float(self.intrinsics[0]), self.baseline, self.size[1])

    def raw_map(
        self, raw_size: tuple[int, int], turn: Float[np.ndarray, "3 3"]
    ) -> Float[np.ndarray, "H W 2"]:
        """Returns where a rectified picture's pixels lie in an eye's raw one, whose rig
        is turned. Raises UserError: the raw one does not show all of them."""
        how = turn, self.size, self.output_hfov
        if self.projection == "equirect":
            return equirect.rectifying_map(raw_size, self.fov_bounds, *how)
        rays = equirect.perspective_rays(self.size, self.intrinsics) @ turn.T
        found = geometry.project(rays, self._raw_intrinsics(raw_size))
        # A turn costs a picture its corners; without one all of it must be there.
        height, width = raw_size
        if np.allclose(turn, np.eye(3)):
            inside = (found >= 0) & (found <= [width, height])
            if not inside.all():
                raise UserError(
                    f"the raw pictures span {self._raw_hfov():g} degrees, and do not "
                    f"show {self.output_hfov:g} all around: give a smaller "
                    "--output_hfov, or other --fov_bounds"
                )
        return found.astype(np.float32)

    def raw_rays(
        self, pixels: Float[np.ndarray, "M 2"], raw_size: tuple[int, int]
    ) -> Float[np.ndarray, "M 3"]:
        """Returns the directions of raw pixels."""
        if self.projection == "perspective":
            return geometry.lift(pixels, self._raw_intrinsics(raw_size), 1.0)
        return equirect.pixel_rays(pixels, raw_size, self.fov_bounds)

    def list_warnings(self, raw_size: tuple[int, int]) -> list[str]:
        """Returns a line if raw pictures are far coarser than the rectified ones."""
        raw = raw_size[1] / self._raw_hfov()
        wanted = self.size[1] / self.output_hfov
        if raw >= LEAST_SHARPNESS * wanted:
            return []
        return [
            f"low resolution: {raw:.1f} raw px a degree for {wanted:.1f} px: half a "
            "pixel of disparity is less than the video has"
        ]

    def _raw_hfov(self):
        return self.fov_bounds[1] - self.fov_bounds[0]

    def _raw_intrinsics(self, raw_size):
        return equirect.perspective_intrinsics(raw_size, self._raw_hfov())


def rectified_pairs(
    pairs: Iterator[tuple[Picture, Picture]],
    view: View,
    rectified2rig: Float[np.ndarray, "2 3 3"],
) -> Iterator[tuple[Picture, Picture]]:
    """Yields rectified pictures of both eyes, each sampled once, linearly. Raises
    UserError: see `check_pair`, `View.raw_map` and `rig.check_rows`."""
    maps = None
    for t, eyes in enumerate(pairs):
        if maps is None:
            check_pair(*eyes)
            maps = [
                view.raw_map(eye.shape[:2], turn)
                for eye, turn in zip(eyes, rectified2rig, strict=True)
            ]
            # OpenCV has pixel centres at whole numbers.
            maps = [
                cv2.convertMaps(found - np.float32(0.5), None, cv2.CV_16SC2)
                for found in maps
            ]
        made = tuple(
            cv2.remap(eye, *found, cv2.INTER_LINEAR)
            for eye, found in zip(eyes, maps, strict=True)
        )
        if t < ROWS_CHECKED:
            rig.check_rows(rig.match_eyes(*made), view.size[1])
        yield made


def rectified_equirect(
    eyes: tuple[Picture, Picture],
    view: View,
    rectified2rig: Float[np.ndarray, "2 3 3"],
) -> tuple[Picture, Picture]:
    """Returns equirectangular pictures of both eyes as a rig without turns would show
    them, of the raw ones' sizes and bounds; black where these show nothing."""
    made = []
    for eye, turn in zip(eyes, rectified2rig, strict=True):
        size = eye.shape[:2]
        rays = equirect.equirect_rays(size, view.fov_bounds) @ turn.T
        found = equirect.equirect_pixels(rays, size, view.fov_bounds) - 0.5
        made.append(cv2.remap(eye, found.astype(np.float32), None, cv2.INTER_LINEAR))
    return tuple(made)


def find_rig(pairs: Sequence[tuple[Picture, Picture]], view: View) -> rig.Rig:
    """Returns the turns of a rig from raw pictures of some frames. Raises UserError:
    too few points are seen by both eyes."""
    rays = []
    for eyes in pairs:
        matches = rig.match_eyes(*eyes)
        size = eyes[0].shape[:2]
        rays.append([view.raw_rays(x, size) for x in matches])
    left, right = (np.concatenate(x) for x in zip(*rays, strict=True))
    found = rig.find_rig(left, right)
    if found.unseen:
        LOG.warning("the rig: %s cannot be seen in this clip", ", ".join(found.unseen))
    focal = view.intrinsics[0]
    LOG.info("the rig: rows are %.2f px off in the median", found.residual * focal)
    return found
