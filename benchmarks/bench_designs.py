"""Designs of the critic that were tried: what each commit's own critic does.

    python benchmarks/bench_designs.py

Checks out each commit in a folder of its own and runs its commands there with the
checkpoint that it ships: the sample clip and its twin whose cylinder jumps
(inference.py), and the twins of --num_scenes scenes, of kinds that it has learned from
(evaluate_benchmarks.py). Prints figures and writes benchmarks/results/designs.json, a
row per commit; rows that are there are kept. Minutes a commit on two CPU cores.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import app, flags
from paths import RESULTS, ROOT
from tqdm import tqdm

from spa.errors import UserError
from spa.files import whole_file
from spa.flags import exit_on_user_error

FLAGS = flags.FLAGS
DESIGNS = {
    "39a03fe": "groups judged region by region; 6,200 steps, 116 rendered scenes, real "
    "clips and their damaged copies among all others",
    "d5013fb": "what is lost and gained against what is usual; regions of tracks that "
    "jump or are lost at once; real clips as they are passed on (thinned, small); the "
    "last eighth of the steps of real clips alone; an early fit",
    "614240b": "the last fifth of the steps of real clips, six in ten twins of the "
    "first kinds; calibrated on 55 clips that its like never saw: ships",
}
CLIPS = {"sample": "example_video.mp4", "teleport": "example_teleport.mp4"}
CONDITIONS = "true", "noisy"
QUESTIONS = "across", "paired"


def git(*arguments: str) -> str:
    """Returns what a git command prints. Raises UserError."""
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def run(tree: Path, *command: str) -> None:
    """Runs a command of a checked out tree. Raises UserError: it failed."""
    command = [sys.executable, *command]
    done = subprocess.run(
        command, cwd=tree, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip() or "no word").splitlines()[-1]
        raise UserError(f"{' '.join(command[1:])}: {last}")


def measure(tree: Path, outputs: Path, num_scenes: int) -> dict:
    """Returns the realism of the sample clips, and of twins of scenes, by condition
    and question, the value and its interval."""
    found = {}
    for name, clip in CLIPS.items():
        place = outputs / name
        command = f"--video_path=data/{clip}", f"--output_dir={place}"
        run(tree, "inference.py", *command)
        found[name] = json.loads((place / "score.json").read_text())["realism"]
    place = outputs / "synthetic"
    run(
        tree,
        "evaluate_benchmarks.py",
        "--benchmark=synthetic",
        f"--conditions={','.join(CONDITIONS)}",
        f"--num_scenes={num_scenes}",
        f"--output_dir={place}",
    )
    figures = json.loads((place / "metrics.json").read_text())["figures"]
    for condition in CONDITIONS:
        pooled = figures[condition]["pooled"]
        found[condition] = {q: pooled[q]["realism"] for q in QUESTIONS}
    return found


def main(argv):
    if len(argv) > 1:
        sys.exit(f"bench_designs.py takes flags only, not {argv[1]!r}")
    path = RESULTS / "designs.json"
    with exit_on_user_error(interrupted="rows that are written are kept"):
        stored = json.loads(path.read_text()) if path.exists() else {"rows": []}
        rows = {row["commit"]: row for row in stored["rows"]}
        for name in tqdm(FLAGS.commits, "designs", unit="commit"):
            commit = git("rev-parse", "--short=7", f"{name}^{{commit}}")
            with tempfile.TemporaryDirectory() as folder:
                tree = Path(folder) / "tree"
                git("worktree", "add", "--detach", str(tree), commit)
                try:
                    found = measure(tree, Path(folder), FLAGS.num_scenes)
                finally:
                    git("worktree", "remove", "--force", str(tree))
            subject = git("show", "-s", "--format=%s", commit)
            rows[commit] = {"commit": commit, "subject": subject,
                            "scenes": FLAGS.num_scenes, **found}  # fmt: skip
            print(rows[commit])
            with whole_file(path) as file:
                text = json.dumps({"rows": list(rows.values())}, indent=1)
                file.write(text.encode())


if __name__ == "__main__":
    flags.DEFINE_list("commits", list(DESIGNS), "Whose critics are measured.")
    flags.DEFINE_integer("num_scenes", 20, "Scenes with twins.", lower_bound=1)
    app.run(main)
