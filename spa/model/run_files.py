"""Files of a training run beside its states: lines, a picture, a W&B log."""

import contextlib
import json
import netrc
import os
import pathlib
import sys
import urllib.parse

import jax
import tqdm

from spa.errors import UserError, first_line
from spa.files import append_line, locked, parse_json, whole_file
from spa.model import evaluation
from spa.model.train_state import saved_steps

LINES = ("metrics.jsonl", "training.jsonl")


def is_first_host() -> bool:
    """Returns whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Writes a line for the user, once."""
    if is_first_host():
        tqdm.tqdm.write(text, file=sys.stderr)


class RunFolder:
    """The --checkpoint_dir of a run; name: of its weights, without ending."""

    def __init__(self, path: str, name: str):
        self.path, self.name = path, name
        self.states = os.path.join(path, "state")
        self.weights = os.path.join(path, f"{name}.npz")

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def is_used(self) -> bool:
        """Returns whether a run has been written here."""
        there = [self.weights, *map(self.file, LINES)]
        return bool(saved_steps(self.states)) or any(map(os.path.exists, there))

    def append(self, name: str, line: dict) -> None:
        """Writes a line of a .jsonl. Raises OSError, naming the file."""
        path = self.file(name)
        try:
            with locked(path) as file:
                append_line(file, (json.dumps(line) + "\n").encode())
        except OSError as error:
            raise OSError(f"cannot write {path}: {error.strerror}") from error

    def lines(self, name: str) -> list[dict]:
        """Reads the lines of a .jsonl, but for one that was cut off or is damaged."""
        lines, path = [], pathlib.Path(self.file(name))
        for text in path.read_bytes().splitlines() if path.exists() else ():
            with contextlib.suppress(UserError):
                line = parse_json(text, name, nan=True)
                lines += [line] if isinstance(line.get("step"), int) else []
        return lines

    def drop_lines(self, step: int) -> None:
        """Drops what was noted after the step that a run goes on from."""
        for name in LINES:
            if is_first_host() and os.path.exists(self.file(name)):
                lines = [line for line in self.lines(name) if line["step"] <= step]
                with whole_file(self.file(name)) as file:
                    file.write("".join(json.dumps(x) + "\n" for x in lines).encode())

    def draw_learning_curve(self) -> None:
        """Writes learning_curve.png, of what metrics.jsonl holds so far."""
        lines = self.lines("metrics.jsonl")
        if lines and is_first_host():
            with whole_file(self.file("learning_curve.png")) as file:
                title = f"{self.name.replace('_', ' ')} on held-out clips"
                evaluation.draw_learning_curve(lines, title, file)


# W&B must never be what training waits for or ends by.


def start_wandb(options, run_id: str, config: dict):
    """Returns the W&B run that is asked for, by a name that holds over interruptions;
    None if there is none, or it fails."""
    if options.wandb_project is None or not is_first_host():
        return None
    try:
        import wandb
    except ImportError:
        say("wandb is not installed: training without it (python -m pip install wandb)")
        return None
    mode = options.wandb_mode or os.environ.get("WANDB_MODE") or "online"
    if mode == "online" and not has_wandb_login():
        mode = "offline"
        say(
            "no W&B login ($WANDB_API_KEY or `wandb login`): logging offline to "
            f"{os.path.join(options.checkpoint_dir, 'wandb')}; `wandb sync` uploads "
            "that later"
        )
    try:
        return wandb.init(
            project=options.wandb_project,
            entity=options.wandb_entity,
            name=options.wandb_run_name,
            id=run_id,
            resume="allow" if mode == "online" else None,
            mode=mode,
            dir=options.checkpoint_dir,
            config=config,
            settings=wandb.Settings(silent=True, init_timeout=30, finish_timeout=60),
        )
    except Exception as error:  # whatever it is, training does not need it
        say(f"W&B does not start ({first_line(error)}): training without it")
        return None


def has_wandb_login() -> bool:
    """Returns whether W&B would find a key, in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    file = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        host = urllib.parse.urlparse(address).hostname
        return bool(netrc.netrc(file).authenticators(host))
    except (OSError, netrc.NetrcParseError):
        return False
