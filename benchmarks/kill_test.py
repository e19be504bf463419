"""Kills commands at random moments: is all that is there whole, and does it go on?

    python benchmarks/kill_test.py
    python benchmarks/kill_test.py --commands=inference --kills=10 --pairs=0

Each command runs once in peace, which is the truth. Then it is begun again and again on
one folder and killed (SIGKILL): some time after its start, some time after its first
file appears, or as soon as a file is being written. After each kill all that is there
is read as a user would read it: it must be as in the truth, and what was finished must
not have been made again. Once it has ended by itself it begins anew in an empty folder.
With --pairs two processes of inference.py work on one folder, of which in every second
pair one is killed. Prints a table; exit code 1 if anything was wrong.
"""

import contextlib
import hashlib
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from absl import app, flags
from paths import ROOT
from tqdm import tqdm

sys.path.append(str(ROOT / "tests"))

import small_models
from video_files import make_clip, write_video

from spa.clip.semantic_files import read_points
from spa.model import checkpoints, train_state
from spa.realism.result_files import NAMES, is_whole, read_score
from spa.realism.score_table import read_rows
from spa.view.results import read_result

FLAGS = flags.FLAGS
NUM_CLIPS = 5
MOMENTS = {"start": 0.2, "work": 0.4, "write": 0.4}  # and how often each is drawn
LONGEST = 300  # seconds that a run may take


class Wrong(Exception):
    """Something is not as it must be."""


def digest(*values) -> str:
    """Returns one text for equal arrays, texts and containers of them."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, dict):
            value = [x for name in sorted(value) for x in (name, value[name])]
        if isinstance(value, list | tuple):
            found.update(digest(*value).encode())
        elif isinstance(value, np.ndarray):
            found.update(f"{value.dtype} {value.shape}".encode())
            found.update(np.ascontiguousarray(value).tobytes())
        else:
            found.update(repr(value).encode())
    return found.hexdigest()


def arrays_of(path) -> dict:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


class Command:
    """A command under test: `finished` reads what a folder has, by the path of what
    marks it as finished, and `check_end` what there must be at the end."""

    code = 0  # with which it ends
    can_go = False  # whether what is finished may be removed

    def __init__(self, name: str, folder: Path):
        self.name, self.folder = name, folder
        folder.mkdir()

    def start(self, out: Path) -> subprocess.Popen:
        cache = f"--jax_cache_dir={self.folder / 'cache'}"
        words = [sys.executable, *self.words(out)]
        words += [cache] if self.name in ("inference", "train") else []
        env = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        }
        with open(self.folder / "log.txt", "wb") as log:
            return subprocess.Popen(
                words, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
            )

    def said(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")


class Inference(Command):
    code = 1  # one of the files is no video

    def __init__(self, name, folder):
        super().__init__(name, folder)
        self.checkpoint = small_models.save_small(folder)
        (folder / "clips").mkdir()
        for i in range(NUM_CLIPS):
            clip = make_clip(12 + 4 * i, step=1 + 0.2 * i)
            write_video(folder / "clips" / f"clip_{i}.mp4", clip)
        (folder / "clips" / "text.mp4").write_text("no video")

    def words(self, out):
        yield from ("inference.py", f"--video_path={self.folder / 'clips'}")
        yield from (f"--output_dir={out}", f"--checkpoint_path={self.checkpoint}")
        yield "--tracking_grid_size=10"

    def finished(self, out):
        found = {}
        for path in sorted(out.glob("*/score.json")):
            score = read_score(path)
            if not is_whole(score, path.parent):
                raise Wrong(f"{path.parent} has files of two results")
            if {p.name for p in path.parent.iterdir()} < set(NAMES):
                raise Wrong(f"{path.parent} lacks files")
            read_result(path.parent / "result_with_scores.npz")
            arrays = [arrays_of(path.parent / f"{stem}.npz")
                      for stem in ("predictions", "result_with_scores")]  # fmt: skip
            found[path] = digest(score | {"seconds": None}, arrays)
        self.rows(out)
        return found

    def rows(self, out):
        rows = read_rows(out / "scores.csv")
        for row in rows:
            if row["error"] and not row["video"].endswith("text.mp4"):
                raise Wrong(f"{row['video']}: {row['error']}")
            if not row["error"]:
                score = read_score(out / row["folder"] / "score.json")
                if float(row["realism"]) != score["realism"]:
                    raise Wrong(f"the row of {row['folder']} is not its score")
        twice = [v for v, n in Counter(row["video"] for row in rows).items() if n > 1]
        if twice:
            raise Wrong(f"several rows of {twice}")
        return rows

    def check_end(self, out):
        if len(self.rows(out)) != NUM_CLIPS + 1:
            raise Wrong(f"{len(self.rows(out))} rows of {NUM_CLIPS + 1} clips")


class SemanticPoints(Command):
    def __init__(self, name, folder):
        super().__init__(name, folder)
        import torch
        import transformers

        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = transformers.Dinov2Config(patch_size=2, image_size=32, **sizes)
        transformers.Dinov2Model(config).save_pretrained(folder / "dino")
        lines = ["video_path,dataset"]
        for i in range(NUM_CLIPS):
            path = folder / f"clip_{i}.mp4"
            write_video(path, make_clip(12 + 4 * i, step=1 + 0.2 * i))
            lines.append(f"{path},set")
        (folder / "list.csv").write_text("\n".join(lines))

    def words(self, out):
        yield from ("semantic_points.py", f"--csv_path={self.folder / 'list.csv'}")
        yield from (f"--base_feat_path={out}", f"--dino_model={self.folder / 'dino'}")
        yield from ("--num_points_per_entity=4", "--make_vis")

    def finished(self, out):
        found = {}
        for path in sorted(out.glob("*/*/feat_dump/*.npz")):
            points = read_points(path)
            with open(path.with_suffix(".pkl"), "rb") as file:
                tensors = {k: x.numpy() for k, x in pickle.load(file).items()}
            gif = path.parents[1] / "gif_dump" / f"{path.stem}.gif"
            parts = arrays_of(path), tensors, gif.read_bytes()
            found[path] = digest(vars(points), *parts)
        return found

    def check_end(self, out):
        if len(self.finished(out)) != NUM_CLIPS:
            raise Wrong("not all videos have points")


class Synthetic(Command):
    NUM_SCENES = 12

    def words(self, out):
        yield from ("synthetic.py", f"--out_dir={out}", "--preview")
        yield from (f"--num_scenes={self.NUM_SCENES}", "--violations=all")
        yield from ("--num_frames=16", "--num_tracks=32", "--height=64", "--width=64")

    def finished(self, out):
        found = {}
        for path in sorted(out.glob("*.npz")):
            video = path.with_suffix(".mp4").read_bytes()
            found[path] = digest(arrays_of(path), video)
        return found

    def check_end(self, out):
        scenes = [p for p in self.finished(out) if p.stem.count("_") == 1]
        if len(scenes) != self.NUM_SCENES:
            raise Wrong(f"{len(scenes)} of {self.NUM_SCENES} scenes")


class Train(Command):
    NUM_STEPS = 12
    can_go = True  # older states

    def words(self, out):
        yield from ("tests/train_small.py", f"--checkpoint_dir={out}", "--resume")
        yield from (f"--num_steps={self.NUM_STEPS}", f"--pool_dir={out / 'pool'}")
        yield from ("--save_freq=1", "--eval_freq=4", "--log_freq=1")
        yield from ("--num_scenes=4", "--num_depth_scenes=2", "--num_eval_scenes=2")
        yield from ("--batch_size=2", "--num_support_tracks=16", "--num_workers=0")
        yield from ("--num_query_points=8", "--warmup_steps=100000")
        yield f"--keep_checkpoints={99 if out.name == 'truth' else 2}"

    def finished(self, out):
        import jax
        import orbax.checkpoint as ocp

        found, states = {}, str(out / "state")
        for step in train_state.saved_steps(states):
            train_state.read_about(states, step)
            how = {"state": ocp.args.StandardRestore()}
            tree = train_state.restore(states, step, **how)["state"]
            leaves = [np.asarray(x) for x in jax.tree.leaves(tree)]
            found[Path(states) / str(step)] = digest(leaves)
        for path in out.glob("*.npz"):
            checkpoints.load_checkpoint(str(path))
        for path in out.glob("*.jsonl"):
            for line in path.read_text().split("\n")[:-1]:
                with contextlib.suppress(ValueError):  # torn: it is passed over
                    json.loads(line)
        return found

    def check_end(self, out):
        [weights], [truth] = out.glob("*.npz"), (out.parent / "truth").glob("*.npz")
        pair = [arrays_of(path) for path in (weights, truth)]
        for arrays in pair:
            arrays.pop("config")  # has examples a second in its metadata
        if digest(pair[0]) != digest(pair[1]):
            raise Wrong("the weights are not those of an uninterrupted run")
        for name in ("training.jsonl", "metrics.jsonl"):
            lines = [
                json.loads(x)["step"] for x in (out / name).read_text().splitlines()
            ]
            if lines != sorted(set(lines)):
                raise Wrong(f"{name} has a step twice, or lacks order")


COMMANDS = {
    "inference": Inference,
    "semantic_points": SemanticPoints,
    "synthetic": Synthetic,
    "train": Train,
}


class Trial:
    """One command, killed again and again."""

    def __init__(self, command: Command, rng: np.random.Generator):
        self.command, self.rng, self.round = command, rng, 0
        self.rows: Counter = Counter()
        self.wrong: list[str] = []
        began = time.monotonic()
        truth = self.command.folder / "truth"
        process = command.start(truth)
        self.start_up = self.wait(process, truth, has_file) or 1.0
        code = process.wait(LONGEST)
        self.work = time.monotonic() - began - self.start_up
        if code != command.code:
            raise SystemExit(f"{command.name} fails in peace: {command.said()}")
        command.check_end(truth)
        self.truth = by_name(command.finished(truth), truth)
        self.begin()

    def begin(self):
        self.round += 1
        self.out = self.command.folder / f"round_{self.round}"
        self.before, self.seen = {}, set()

    def wait(self, process, out, condition) -> float | None:
        """Returns the seconds until something is so; None if the process ends first."""
        began = time.monotonic()
        while process.poll() is None and time.monotonic() - began < LONGEST:
            if condition(out):
                return time.monotonic() - began
            time.sleep(0.001)
        return None

    def kill(self) -> bool:
        """Kills it once; returns whether it was alive still."""
        moment = str(self.rng.choice(list(MOMENTS), p=list(MOMENTS.values())))
        process = self.command.start(self.out)
        if moment == "start":
            pause(process, self.rng.uniform(0, self.start_up))
        else:
            state = signature(self.out)
            self.wait(process, self.out, lambda out: signature(out) != state)
            if moment == "work":
                left = 1 - len(self.seen) / max(1, len(self.truth))
                pause(process, self.rng.uniform(0, self.work * left))
            for _ in range(int(self.rng.integers(1, 8)) if moment == "write" else 0):
                state = signature(self.out)
                self.wait(process, self.out, lambda out, s=state: signature(out) != s)
        was_alive = process.poll() is None
        if was_alive:
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        self.rows[moment if was_alive else "ended before"] += 1
        if not was_alive:
            self.check_end(code)
        self.check()
        return was_alive

    def check(self):
        """Reads all that is there."""
        with self.noting():
            found = self.command.finished(self.out)
            self.seen |= by_name(found, self.out).keys()
            for name, value in by_name(found, self.out).items():
                if value != self.truth.get(name):
                    raise Wrong(f"{name} is not as it is in peace")
            stamps = {p: (os.stat(p).st_ino, os.stat(p).st_mtime_ns) for p in found}
            for path, stamp in self.before.items():
                if path not in stamps and not self.command.can_go:
                    raise Wrong(f"{path} was finished, and is not any more")
                if stamps.get(path, stamp) != stamp:
                    raise Wrong(f"{path} was finished, and was made again")
            if self.before and stamps and self.command.can_go:
                newest = [max(int(p.name) for p in x) for x in (self.before, stamps)]
                if newest[1] < newest[0]:
                    raise Wrong(
                        f"step {newest[0]} was saved, and {newest[1]} is newest"
                    )
            self.before = stamps

    def check_end(self, code):
        with self.noting():
            if code != self.command.code or "Traceback" in self.command.said():
                raise Wrong(f"ended with {code}: {self.command.said()[-2000:]}")
            left = [p for p in self.out.rglob("*") if "tmp" in p.name]
            if left:
                raise Wrong(f"left over: {left}")
            self.command.check_end(self.out)
            found = self.command.finished(self.out)
            lacking = self.truth.keys() - by_name(found, self.out).keys()
            if lacking and not self.command.can_go:
                raise Wrong(f"lacks {lacking}")

    @contextlib.contextmanager
    def noting(self):
        try:
            yield
        except Exception as error:
            self.wrong.append(f"{self.out.name}: {error}")
            tqdm.write(f"{self.command.name}: {self.wrong[-1]}", file=sys.stderr)

    def go_on(self, num_kills):
        killed = 0
        with tqdm(total=num_kills, desc=self.command.name) as bar:
            while killed < num_kills:
                if self.kill():
                    killed += 1
                    bar.update()
                else:
                    self.begin()
        process = self.command.start(self.out)
        self.check_end(process.wait(LONGEST))
        self.check()

    def pair(self, is_killed):
        """Two processes at once on one folder, of which perhaps one is killed."""
        self.begin()
        pair = [self.command.start(self.out)]
        time.sleep(self.rng.uniform(0, 0.5))
        pair.append(self.command.start(self.out))
        if is_killed:
            self.wait(pair[0], self.out, has_file)
            pause(pair[0], self.rng.uniform(0, self.work))
            if pair[0].poll() is None:
                os.killpg(pair[0].pid, signal.SIGKILL)
        for process in pair:
            process.wait(LONGEST)
        self.rows["pairs"] += 1
        self.check_end(pair[1].returncode)
        self.check()


def pause(process, seconds) -> None:
    """Waits, but no longer than a process lives."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def has_file(out) -> bool:
    return any(p.is_file() for p in out.rglob("*"))


def signature(out):
    """Returns the names that a folder has, all the way down."""
    with contextlib.suppress(OSError):
        return {p.name for p in out.rglob("*")}
    return None


def by_name(found, out) -> dict:
    return {str(path.relative_to(out)): value for path, value in found.items()}


def main(_):
    logging.getLogger("absl").setLevel(logging.FATAL)  # Orbax tells of every file
    rng, trials = np.random.default_rng(FLAGS.seed), []
    with tempfile.TemporaryDirectory() as scratch:
        names = FLAGS.commands
        for i, name in enumerate(names):
            trials.append(Trial(COMMANDS[name](name, Path(scratch) / name), rng))
            count = len(range(i, FLAGS.kills, len(names)))
            trials[-1].go_on(count)
            if name == "inference":
                for j in range(FLAGS.pairs):
                    trials[-1].pair(is_killed=j % 2 == 1)
    columns = [*MOMENTS, "ended before", "pairs"]
    print(f"{'killed at':<16}" + "".join(f"{name:>14}" for name in [*columns, "wrong"]))
    for trial in trials:
        counts = [trial.rows[name] for name in columns] + [len(trial.wrong)]
        print(f"{trial.command.name:<16}" + "".join(f"{n:>14}" for n in counts))
    if any(trial.wrong for trial in trials):
        sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_integer("kills", 40, "How many, over all commands.", 0)
    flags.DEFINE_integer("pairs", 4, "Of inference.py at once on one folder.", 0)
    flags.DEFINE_integer("seed", 0, "Of the moments.")
    flags.DEFINE_list("commands", list(COMMANDS), "Which.")
    app.run(main)
