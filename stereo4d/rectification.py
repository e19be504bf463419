"""Raw frames of both eyes to rectified perspective ones, frame by frame."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from spa import geometry
from spa.errors import UserError
from stereo4d import equirect, rig
from stereo4d.layouts import check_pair, has_contrast
from stereo4d.optimisation import Stereo

LOG = logging.getLogger(__name__)
PROJECTIONS = ("equirect", "perspective")
OUTPUT_HFOV = 60.0  # degrees, unless the raw pictures show less
RAW_YAW = (-30.0, 30.0)  # of perspective pictures, where nothing else is known
WIDEST = 85.0  # degrees to a side, of perspective pictures
RIG_FRAMES = 5  # that a rig's turns are found from, evenly spread
LEAST_SHARPNESS = 0.5  # of the rectified pictures' pixels a degree
ROWS_CHECKED = 3  # frames with enough matches, whose rows are looked at
Picture = UInt8[np.ndarray, "H W 3"]


@dataclasses.dataclass(frozen=True)
class View:
    """What the rectified pictures are to be, and what the raw ones are.

    Attributes:
        projection: of the raw pictures, one of PROJECTIONS.
        fov_bounds: what the raw ones show, degrees: start and end of yaw, of tilt; of
            perspective ones along the axes.
        output_hfov: degrees that the rectified ones' width spans.
        size: (height, width) of the rectified ones, px.
        baseline: metres between the eyes.
        assumed: of the raw ones, as lines that warn.
    """

    projection: str = "equirect"
    fov_bounds: tuple[float, float, float, float] = equirect.FIELD_OF_VIEW
    output_hfov: float = OUTPUT_HFOV
    size: tuple[int, int] = (512, 512)
    baseline: float = 0.063
    assumed: tuple[str, ...] = ()

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
        is turned; outside of it where it shows nothing."""
        how = turn, self.size, self.output_hfov
        if self.projection == "equirect":
            return equirect.rectifying_map(raw_size, self.fov_bounds, *how)
        rays = equirect.perspective_rays(self.size, self.intrinsics) @ turn.T
        found = geometry.project(rays, self._raw_intrinsics(raw_size))
        return found.astype(np.float32)

    def widest_hfov(
        self, raw_size: tuple[int, int], turn: Float[np.ndarray, "3 3"]
    ) -> float:
        """Returns the largest output_hfov, degrees, all of which an eye's raw picture
        shows, rounded down to a tenth; 0 if there is none. A turn costs a perspective
        picture its corners, which are not counted."""
        if self.projection == "equirect":
            how = self.fov_bounds, turn, self.size
            return equirect.widest_hfov(raw_size, *how)
        left, right, top, bottom = np.tan(np.radians(self.fov_bounds)) * [-1, 1, -1, 1]
        height, width = self.size
        half = max(0, min(left, right, min(top, bottom) * width / height))
        # Of 60 degrees, whose tangent is no number of floats, 60.0 are to be left.
        return float(np.floor(20 * np.degrees(np.arctan(half)) + 1e-6) / 10)

    def check_shown(
        self, raw_sizes: Sequence[tuple[int, int]], turns: Float[np.ndarray, "2 3 3"]
    ) -> None:
        """Raises UserError: a raw picture does not show all of the rectified one."""
        eyes = list(zip(raw_sizes, turns, strict=True))
        if self.projection == "equirect" and all(
            equirect.is_inside(self.raw_map(*eye), eye[0]) for eye in eyes
        ):
            return
        widest = min(self.widest_hfov(*eye) for eye in eyes)
        if self.projection == "perspective" and self.output_hfov <= widest:
            return
        bounds = ", ".join(f"{x:.4g}" for x in self.fov_bounds)
        raise UserError(
            f"the raw pictures show {bounds} degrees (start and end of yaw, of tilt), "
            f"and not {self.output_hfov:g} all around: "
            + (f"give --output_hfov={widest:.1f} or less" if widest else "check these")
        )

    def raw_rays(
        self, pixels: Float[np.ndarray, "M 2"], raw_size: tuple[int, int]
    ) -> Float[np.ndarray, "M 3"]:
        """Returns the directions of raw pixels."""
        if self.projection == "perspective":
            return geometry.lift(pixels, self._raw_intrinsics(raw_size), 1.0)
        return equirect.pixel_rays(pixels, raw_size, self.fov_bounds)

    def list_warnings(self, raw_size: tuple[int, int]) -> list[str]:
        """Returns what was assumed of raw pictures, and a line if they are far coarser
        than the rectified ones."""
        raw = raw_size[1] / (self.fov_bounds[1] - self.fov_bounds[0])
        wanted = self.size[1] / self.output_hfov
        if raw >= LEAST_SHARPNESS * wanted:
            return [*self.assumed]
        return [
            *self.assumed,
            f"low resolution: {raw:.1f} raw px a degree for {wanted:.1f} px: half a "
            "pixel of disparity is less than the video has",
        ]

    def _raw_intrinsics(self, raw_size):
        """Of pictures whose borders lie at `fov_bounds` along the axes."""
        left, right, top, bottom = np.tan(np.radians(self.fov_bounds))
        fx, fy = raw_size[1] / (right - left), raw_size[0] / (bottom - top)
        return np.array([fx, fy, -left * fx, -top * fy])


def perspective_bounds(
    raw_size: tuple[int, int],
    pixel_aspect: float = 1.0,
    yaw: tuple[float, float] = RAW_YAW,
) -> tuple[float, float, float, float]:
    """Returns `fov_bounds` of perspective pictures whose axis meets the middle row and
    whose pixels are so much wider than high."""
    left, right = np.tan(np.radians(yaw))
    height, width = raw_size
    half = (right - left) / width / pixel_aspect * height / 2
    tilt = float(np.degrees(np.arctan(half)))
    return *map(float, yaw), -tilt, tilt


def rectified_pairs(
    pairs: Iterator[tuple[Picture, Picture]],
    view: View,
    rectified2rig: Float[np.ndarray, "2 3 3"],
) -> Iterator[tuple[Picture, Picture]]:
    """Yields rectified pictures of both eyes, each sampled once, linearly. Raises
    UserError: see `check_pair`, `View.check_shown` and `rig.check_rows`; no frame shows
    enough to tell."""
    maps, is_pair, checked = None, False, 0
    for eyes in pairs:
        if not is_pair and has_contrast(*eyes):  # before, it may begin black
            check_pair(*eyes)
            is_pair = True
        if maps is None:
            sizes = [eye.shape[:2] for eye in eyes]
            view.check_shown(sizes, rectified2rig)
            found = map(view.raw_map, sizes, rectified2rig)
            maps = [_remapping(each) for each in found]
        made = _remapped(eyes, maps)
        if checked < ROWS_CHECKED:
            checked += rig.check_rows(rig.match_eyes(*made), view.size[1])
        yield made
    if maps and not is_pair:
        raise UserError("both eyes' pictures are of one colour in all frames")


def straightener(
    view: View, rectified2rig: Float[np.ndarray, "2 3 3"]
) -> Callable[[tuple[Picture, Picture]], tuple[Picture, Picture]]:
    """Returns a function from a frame's raw pictures of both eyes to equirectangular
    ones as a rig without turns would show them, of their sizes and bounds; black where
    they show nothing. Its maps are the first frame's."""
    maps = []

    def straighten(eyes):
        if not maps:
            for eye, turn in zip(eyes, rectified2rig, strict=True):
                size = eye.shape[:2]
                rays = equirect.equirect_rays(size, view.fov_bounds) @ turn.T
                found = equirect.equirect_pixels(rays, size, view.fov_bounds)
                maps.append(_remapping(found.astype(np.float32)))
        return _remapped(eyes, maps)

    return straighten


def _remapping(found):
    """A map as OpenCV takes it, whose pixel centres are at whole numbers."""
    return cv2.convertMaps(found - np.float32(0.5), None, cv2.CV_16SC2)


def _remapped(eyes, maps):
    return tuple(
        cv2.remap(eye, *found, cv2.INTER_LINEAR)
        for eye, found in zip(eyes, maps, strict=True)
    )


def find_rig(pairs: Iterable[tuple[Picture, Picture]], view: View) -> rig.Rig:
    """Returns the turns of a rig from raw pictures of some frames. Raises UserError:
    too few points are seen by both eyes."""
    rays = []
    for eyes in pairs:
        matches = rig.match_eyes(*eyes)
        size = eyes[0].shape[:2]
        rays.append([view.raw_rays(x, size) for x in matches])
    left, right = (np.concatenate(x) for x in zip(*rays, strict=True))
    found = rig.find_rig(left, right)
    focal = view.intrinsics[0]
    LOG.info("the rig: rows are %.2f px off in the median", found.residual * focal)
    return found
