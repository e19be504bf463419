"""Simulated physical scenes with exact tracks, visibility, depth and cameras.

A scene is a few bodies under MuJoCo on a floor among walls and furniture, seen by a
moving camera: rigid ones, chains and creatures with joints, cloth and jelly. Nothing
here needs OpenGL: what the camera sees is found by casting rays on the CPU.

World axes are MuJoCo's (z up, metres, seconds). Camera axes are OpenCV's (x right,
y down, z forward) and pixels have their centres at +0.5 (docs/DESIGN.md).
"""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Sequence

import cv2
import numpy as np
import tqdm

from spa import geometry
from spa.clip.video_writer import write_video
from spa.files import append_line, locked, remove_orphans, whole_file, write_npz
from spa.flags import check_output_dir
from spa.jobs import ordered_map
from spa.simulation.render import render
from spa.simulation.scenes import VERSION, Scene, depth_and_segmentation, generate_scene
from spa.simulation.twins import NoViolation, impossible_twin
from spa.simulation.violations import PICTURED
from stereo4d.simulated import perspective_eyes, rendered_pairs, vr180_eyes

LEFT_OUT = "left_out.txt"  # lists twins that cannot be shown, not to be tried again
STEREO_HFOV = 60.0  # degrees, of rectified pairs: what stereo4d.run takes them for
STEREO_CRF = 10  # what compression changes, stereo matching sees
STEREO = "sbs", "vr180"
MAX_SHEET_ROWS = 26  # of a contact sheet


def contact_row(scene: Scene, video: np.ndarray, columns: int = 6) -> np.ndarray:
    """Returns `[H, columns * W, 3]` uint8: frames of a scene, or of a twin around its
    violation (framed red), visible tracks dotted in their instance's colour, static
    white."""
    hues = np.array([[[k * 47 % 180, 255, 255] for k in range(256)]], np.uint8)
    palette = cv2.cvtColor(hues, cv2.COLOR_HSV2RGB)[0].tolist()
    palette[0] = [255, 255, 255]
    pixels = geometry.project(scene.tracks_3d, scene.intrinsics)
    start, stop = 0, len(video) - 1
    if scene.violation != "none":
        start = scene.violation_frame - 1
        stop = min(stop, start + max(columns - 1, round(scene.fps)))
    row = []
    for t in np.rint(np.linspace(start, stop, columns)).astype(int):
        frame = video[t].copy()
        for n in np.flatnonzero(scene.visible[:, t, 0])[::3]:
            at = tuple(int(v) for v in pixels[n, t])
            cv2.circle(frame, at, 1, palette[scene.instance_ids[n] % 256], -1)
        if scene.violation != "none" and t >= scene.violation_frame:
            cv2.rectangle(frame, (0, 0), (scene.width, scene.height), (255, 0, 0), 3)
        row.append(frame)
    label = f"{scene.seed} {scene.violation}".removesuffix(" none")
    for width, shade in ((3, (0, 0, 0)), (1, (255, 255, 255))):
        cv2.putText(row[0], label, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, shade, width)
    return np.concatenate(row, axis=1)


@dataclasses.dataclass(frozen=True)
class Settings:
    folder: pathlib.Path
    num_frames: int = 48
    num_tracks: int = 512
    height: int = 256
    width: int = 256
    fps: float | None = None
    violations: tuple[str, ...] = ()
    depth: bool = True
    render: bool = False
    samples: int = 1
    preview: bool = False
    stereo: str | None = None

    def path(self, seed: int, violation: str = "none", suffix: str = ".npz"):
        """Returns where the scene of a seed goes, or a twin of it."""
        name = f"scene_{seed:06d}_{violation}".removesuffix("_none")
        return self.folder / (name + suffix)

    def left_out(self, seed: int, violation: str) -> str:
        """Returns the line of LEFT_OUT which says that a twin cannot be shown."""
        return (
            f"{self.path(seed, violation).stem}: {self.num_frames} frames, "
            f"{self.num_tracks} tracks, {self.width}x{self.height}, "
            f"{self.fps or 'random'} fps, version {VERSION}"
        )


def make_files(settings: Settings, job: tuple[int, Sequence[str]]) -> dict[str, object]:
    """Writes the scene of a seed, and its twins but those known not to be possible
    (job: both), where not there yet. Returns "found", "written" or "cannot" of each,
    and "rows" of a contact sheet; ValueError for a file of other settings."""
    (seed, cannot), kinds = job, ("none", *settings.violations)
    report: dict[str, object] = dict.fromkeys(cannot, "cannot")
    for kind in kinds:
        if kind not in report and _is_found(settings, seed, kind):
            report[kind] = "found"
    rows: list[np.ndarray] = []
    if len(report) < len(kinds):
        names = "num_frames num_tracks height width fps".split()
        scene = generate_scene(seed, *(getattr(settings, name) for name in names))
        shown = None
        for kind in kinds:
            if kind in report:
                continue
            try:
                twin = scene if kind == "none" else impossible_twin(scene, kind)
            except NoViolation:
                report[kind] = "cannot"
                continue
            shown = shown or _render_maps(settings, scene)
            _write_scene(settings, twin, shown, rows)
            if kind == "none" and settings.stereo:
                _write_stereo(settings, scene)
            report[kind] = "written"
    return report | {"rows": rows}


def _is_found(settings: Settings, seed: int, kind: str) -> bool:
    """Returns whether a scene's files are there; ValueError if they do not fit."""
    path = settings.path(seed, kind)
    if not path.exists():
        return False
    names = "tracks_3d height width version fps".split()
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = set(stored.files)
            tracks, *sizes, version, fps = (stored[name] for name in names)
    except Exception as error:  # damage shows in many ways
        raise ValueError(f"{path} is no finished scene ({error}): delete it") from error
    same = (
        tracks.shape[1] == settings.num_frames
        and (tracks.shape[0] == settings.num_tracks or kind != "none")
        and tuple(map(int, sizes)) == (settings.height, settings.width)
        and int(version) == VERSION
        and settings.fps in (None, float(fps))
        and ("depth" in found or not settings.depth)
        and ("video" in found or not settings.render)
    )
    if not same:
        raise ValueError(
            f"{path} was made with other settings (or another version): delete it, or "
            "choose another --out_dir"
        )
    wanted = [".mp4"] * settings.preview
    if settings.stereo and kind == "none":
        wanted.append(f"_{settings.stereo}.mp4")
    return all(settings.path(seed, kind, ending).exists() for ending in wanted)


def _render_maps(
    settings: Settings, scene: Scene, first: int = 0
) -> dict[str, np.ndarray]:
    shown = {}
    if settings.depth:
        maps = depth_and_segmentation(scene.simulation, scene.camera, first)
        shown["depth"], shown["segmentation"] = maps
    if settings.render or settings.preview:
        shown["video"] = render(scene, settings.samples, first=first)
    return shown


def _write_scene(settings: Settings, scene: Scene, possible: dict, rows: list) -> None:
    """Writes a scene, or a twin, which shows what `possible` has until its moment."""
    shown = possible
    if scene.violation != "none":
        first = scene.violation_frame
        shown = {
            name: np.concatenate([possible[name][:first], later])
            for name, later in _render_maps(settings, scene, first).items()
        }
    arrays = scene.arrays() | shown
    if settings.preview:
        path = settings.path(scene.seed, scene.violation, ".mp4")
        write_video(path, shown["video"], scene.fps, crf=23, preset="slow")
        rows.append(contact_row(scene, shown["video"]))
    if not settings.render:
        arrays.pop("video", None)
    path = settings.path(scene.seed, scene.violation)
    write_npz(path, arrays, compress=True)


def _write_stereo(settings: Settings, scene: Scene) -> None:
    """Writes a scene as both eyes see it, side by side, the left one from the scene's
    camera: pictures of STEREO_HFOV degrees, or the half sphere."""
    if settings.stereo == "vr180":
        eyes = vr180_eyes((settings.height, settings.height))
    else:
        eyes = perspective_eyes((settings.height, settings.width), STEREO_HFOV)
    frames = (np.concatenate(pair, axis=1) for pair in rendered_pairs(scene, eyes))
    path = settings.path(scene.seed, "none", f"_{settings.stereo}.mp4")
    write_video(path, frames, scene.fps, crf=STEREO_CRF)


def parse_violations(text: str) -> tuple[str, ...]:
    """Returns names of violations from "none", "all" or a list with commas; ValueError
    for others."""
    if text in ("none", ""):
        return ()
    names = PICTURED if text == "all" else tuple(text.replace(" ", "").split(","))
    for name in names:
        if name not in PICTURED:
            raise ValueError(
                f"--violations has {name!r}: it takes none, all, or names from "
                f"{','.join(PICTURED)}"
            )
    return tuple(dict.fromkeys(names))


def main(flags) -> None:
    """Writes scene_SEED.npz for consecutive seeds, their twins, and previews; finds
    again what is there, and notes twins that cannot be shown in LEFT_OUT."""
    names = "num_frames num_tracks height width fps depth render samples preview stereo"
    options = {name: getattr(flags, name) for name in names.split()}
    options["violations"] = parse_violations(flags.violations)
    check_output_dir(flags.out_dir, "out_dir")
    settings = Settings(pathlib.Path(flags.out_dir).expanduser(), **options)
    if settings.stereo not in (None, *STEREO):
        raise ValueError(
            f"--stereo={settings.stereo}: it takes {' or '.join(STEREO)}, or nothing"
        )
    is_shown = settings.preview or settings.stereo
    if is_shown and (settings.height % 2 or settings.width % 2):
        raise ValueError(
            "--preview and --stereo write H.264: --height and --width must be even"
        )
    settings.folder.mkdir(parents=True, exist_ok=True)
    remove_orphans(settings.folder)
    counts = {"written": 0, "found": 0}
    cannot = dict.fromkeys(settings.violations, 0)
    rows: list[np.ndarray] = []
    seeds = range(flags.seed, flags.seed + flags.num_scenes)
    total = len(seeds) * (1 + len(settings.violations))
    left_out = settings.folder / LEFT_OUT
    noted = left_out.read_bytes().splitlines() if left_out.exists() else ()
    jobs = [
        (
            seed,
            [
                v
                for v in settings.violations
                if settings.left_out(seed, v).encode() in noted
            ],
        )
        for seed in seeds
    ]
    with (
        ordered_map(min(flags.num_workers, len(seeds))) as run,
        tqdm.tqdm(total=total, desc="scenes and twins", unit="file") as bar,
    ):
        reports = run(functools.partial(make_files, settings), jobs)
        for (seed, known), report in zip(jobs, reports, strict=True):
            rows = (rows + report.pop("rows"))[:MAX_SHEET_ROWS]
            for kind, state in report.items():
                if state != "cannot":
                    counts[state] += 1
                    continue
                cannot[kind] += 1
                if kind not in known:
                    with locked(left_out) as file:
                        append_line(file, f"{settings.left_out(seed, kind)}\n".encode())
            bar.update(len(report))
    if rows:
        ok, png = cv2.imencode(".png", np.concatenate(rows)[..., ::-1])
        with whole_file(settings.folder / "contact_sheet.png") as file:
            file.write(png.tobytes())
    print(f"{counts['written']} files written to {settings.folder}", end="")
    print(f", {counts['found']} found there already" if counts["found"] else "")
    failed = {kind: count for kind, count in cannot.items() if count}
    if failed:
        print(
            f"no body could show it in {sum(failed.values())} twins, which are left "
            "out: " + ", ".join(f"{kind} {n}" for kind, n in failed.items())
        )


if __name__ == "__main__":
    from absl import app
    from absl import flags as absl_flags

    absl_flags.DEFINE_string("out_dir", "outputs/scenes", "Where the files go.")
    absl_flags.DEFINE_integer("num_scenes", 8, "How many.", lower_bound=1)
    text = "Of the first scene; then + 1. Those of training begin with 2**32."
    absl_flags.DEFINE_integer("seed", 0, text, 0, 2**32 - 1)
    absl_flags.DEFINE_integer("num_frames", 48, "Frames per scene.", lower_bound=1)
    absl_flags.DEFINE_integer("num_tracks", 512, "Tracks per scene.", lower_bound=1)
    absl_flags.DEFINE_integer("height", 256, "Picture height, px.", lower_bound=2)
    absl_flags.DEFINE_integer("width", 256, "Picture width, px.", lower_bound=2)
    absl_flags.DEFINE_float("fps", None, "Frames per second; random if not given.", 1)
    text = "Impossible twins of each scene: none, all, or a list with commas of "
    absl_flags.DEFINE_string("violations", "none", text + ", ".join(PICTURED))
    absl_flags.DEFINE_bool("depth", True, "Store depth and segmentation maps.")
    absl_flags.DEFINE_bool("render", False, "Store the rendered video.")
    absl_flags.DEFINE_integer("samples", 1, "Rays per pixel, squared.", lower_bound=1)
    absl_flags.DEFINE_bool("preview", False, "Write mp4s and contact_sheet.png.")

    class StereoParser(absl_flags.ArgumentParser):
        """Of --stereo, --stereo=vr180 and --nostereo."""

        syntactic_help = "one of " + ", ".join(STEREO)

        def parse(self, argument):
            return {"true": "sbs", "false": None}.get(argument, argument)

    text = "Write mp4s for both eyes, side by side: rectified, or =vr180."
    flag = absl_flags.Flag(
        StereoParser(), absl_flags.ArgumentSerializer(), "stereo", None, text,
        boolean=True,
    )  # fmt: skip
    absl_flags.DEFINE_flag(flag)
    absl_flags.DEFINE_integer("num_workers", 0, "Processes; 0 works in this one.", 0)

    def run(argv):
        if len(argv) > 1:
            sys.exit(f"synthetic.py takes flags only, not {argv[1]!r}: see --help")
        try:
            main(absl_flags.FLAGS)
        except KeyboardInterrupt:
            kept = "the files that are there are whole, and the same command goes on"
            print(f"\nsynthetic.py: stopped; {kept} after them", file=sys.stderr)
            sys.exit(130)
        except (ValueError, OSError) as error:
            sys.exit(f"synthetic.py: {error}")

    app.run(run)
