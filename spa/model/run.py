"""A training run: its first step or where it stopped, its steps, its end."""

import contextlib
import dataclasses
import math
import secrets
import signal
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils

from spa.errors import CheckpointError, UserError, first_line
from spa.model import checkpoints, evaluation, run_data, training
from spa.model.loss import WEIGHTS, LossWeights
from spa.model.run_files import RunFolder, is_first_host, say, start_wandb
from spa.model.train_state import (
    TrainState,
    make_state,
    read_about,
    restore_state,
    save_state,
    saved_steps,
    unfinished,
)
from track_autoencoder import TrackAutoEncoder

# Options that may differ when a run is resumed. Any other makes another run of it.
CHANGEABLE = set(
    """
    checkpoint_dir resume stop_at_step eval_freq save_freq log_freq keep_checkpoints
    storage skip_corrupt num_workers jax_cache_dir eval_dataset_path
    eval_data_source eval_split num_eval_scenes wandb_project wandb_entity
    wandb_run_name wandb_mode distributed coordinator_address num_processes process_id
    """.split()
)
# Options that are not noted beside the weights: how it ran here, and paths.
UNNOTED = CHANGEABLE - {"eval_freq", "num_eval_scenes", "storage", "skip_corrupt"}
UNNOTED |= {"dataset_path", "init_checkpoint", "mix", "pool_dir"}


class TrainingEnded(UserError):
    """Training ended early. The message says why, and what is kept."""


class StopRequest:
    """SIGTERM or Ctrl-C, raised as KeyboardInterrupt until steps look for it.

    An exception out of a signal handler is lost where the handler happens to run inside
    a callback of the garbage collector, of which JAX has one. So it is remembered, and
    while steps are taken it is not raised unless it comes twice.
    """

    def __init__(self):
        self.came = self.is_looked_for = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self)

    def __call__(self, *_):
        if self.came or not self.is_looked_for:
            self.came = True
            raise KeyboardInterrupt
        self.came = True


@dataclasses.dataclass
class Run:
    """A run under way; `state` is after `step` steps.

    options: values of the flags of train.py by their names, see run_data. again: how
    the user goes on with it. feeder: of the batches from there on; batch: the last that
    came of it; no_data: why no more come on this host, empty while they do. saved: step
    of the newest state on disk; exported: of the weights. began: time when it would
    have begun without interruptions; wandb_id: names W&B's run over these.
    """

    options: Any
    folder: RunFolder
    again: str
    model: TrackAutoEncoder
    held_out: list[dict]
    step_fn: Callable
    schedule: Callable
    num_steps: int
    state: TrainState
    feeder: training.Feeder | None = None
    batch: dict | None = None
    no_data: str = ""
    step: int = 0
    saved: int = 0
    exported: int = 0
    began: float = dataclasses.field(default_factory=time.time)
    wandb: Any = None
    wandb_id: str = dataclasses.field(default_factory=lambda: secrets.token_hex(4))

    # What is kept.

    def kept(self) -> str:
        """Says what there is of a run that ends."""
        state = f"the training state of step {self.saved} is kept"
        weights = f"the weights of step {self.exported} are in {self.folder.weights}"
        parts = [state] * bool(self.saved) + [weights] * bool(self.exported)
        return ", ".join(parts) or "nothing was written yet"

    def resume(self, earlier: list[tuple[int, dict]]) -> None:
        """Goes back to the newest whole state, or raises TrainingEnded."""
        for step, about in earlier:
            try:
                self.state = restore_state(self.folder.states, step, self.state)
            except CheckpointError as error:
                say(f"{error}: passed over")
                continue
            self.step = self.saved = step
            self.exported = min(about["exported"], step)
            self.began = time.time() - about["seconds"]
            self.wandb_id = about["wandb_id"]
            say(f"resumed after step {step}")
            return
        raise no_whole_state(self.folder)

    def save(self) -> None:
        """Writes the training state, unless it is there. Raises TrainingEnded."""
        if self.step == self.saved:
            return
        if not training.is_finite((self.state.params, self.state.average)):
            raise self.diverged(f"the weights are not finite at step {self.step}")
        about = {
            "settings": settings(self.options),
            "seconds": time.time() - self.began,
            "exported": self.exported,
            "wandb_id": self.wandb_id,
        }
        keep = self.options.keep_checkpoints
        try:
            save_state(self.folder.states, self.state, about, keep)
        except CheckpointError as error:
            raise TrainingEnded(f"{error}; {self.kept()}") from error
        self.saved = self.step

    def export(self, metrics: dict, held_out: dict) -> None:
        """Writes the averaged weights, and how they came about."""
        if not is_first_host():
            return
        flags = settings(self.options).items()
        metadata = {"step": self.step, "training": metrics, "held_out": held_out}
        metadata["flags"] = {k: v for k, v in flags if k not in UNNOTED}
        params = jax.device_get(training.local_replica(self.state.average))
        path, dtype = self.folder.weights, self.options.storage
        try:
            checkpoints.save_checkpoint(path, self.model, params, dtype, metadata)
        except CheckpointError as error:  # weights beyond the stored type
            raise self.diverged(str(error)) from error
        self.exported = self.step

    def diverged(self, what: str) -> TrainingEnded:
        """Returns the error for a loss or for weights that are not finite."""
        rate = f"{self.options.learning_rate / 3:.0e}"
        return TrainingEnded(f"{what}; {self.kept()}. Try --learning_rate={rate}")

    # What is told.

    def log(self, name: str, metrics: dict) -> None:
        """Appends a line to a .jsonl, and to W&B."""
        if not is_first_host():
            return
        seconds = round(time.time() - self.began, 1)
        self.folder.append(name, {"step": self.step, "seconds": seconds, **metrics})
        if self.wandb is not None:
            with contextlib.suppress(Exception):
                self.wandb.log(metrics, step=self.step)

    def evaluate(self, metrics: dict) -> None:
        """Tells held-out errors to the screen, metrics.jsonl and the weights' file."""
        average = training.local_replica(self.state.average)
        errors = evaluation.evaluate(self.model, average, self.held_out)
        self.export(metrics, errors)
        self.log("metrics.jsonl", metrics | errors)
        say(f"step {self.step}: loss {metrics['loss']:.3f}, {report(errors)}")

    def read_metrics(self, metrics: dict) -> dict[str, float]:
        """Reads a step's metrics as numbers, which waits for the device; raises
        TrainingEnded if loss or gradient are not finite."""
        values = {name: float(x) for name, x in metrics.items()}
        if not math.isfinite(values["loss"] + values["grad_norm"]):
            at = f"at step {self.step}"
            raise self.diverged(f"the loss or its gradient is not finite {at}")
        rate = float(self.schedule(self.step - 1))
        return {**values, "learning_rate": rate, **self.feeder.rates()}

    # Steps.

    def take_batch(self, metrics: dict, stop: StopRequest) -> None:
        """Fetches the next batch, unless data fail or have failed; raises
        KeyboardInterrupt if they fail because this process is told to stop."""
        if self.no_data:
            return
        try:
            self.batch = self.feeder.next(metrics.get("loss"))
        except Exception as error:  # whatever a worker died of
            # It may have been told to stop, too.
            if stop.came and not has_other_hosts():
                raise KeyboardInterrupt from None
            self.no_data = f"no batch for step {self.step + 1}: {first_line(error)}"

    def stop_agreed(self, stop: StopRequest) -> bool:
        """Returns whether to stop, which all hosts must do together; raises
        TrainingEnded on each if the data of one have failed."""
        said = np.array([stop.came, bool(self.no_data)])
        if has_other_hosts():
            said = np.any(multihost_utils.process_allgather(said), axis=0)
        if said[1]:
            if not has_other_hosts():  # or steps were taken since with what they had
                self.save()
            why = self.no_data or "the data of another host have failed"
            raise TrainingEnded(f"{why.rstrip('.')}; {self.kept()}. {self.again}")
        return bool(said[0])

    def take_steps(self, stop: StopRequest) -> None:
        """Trains until it is complete or told to stop (KeyboardInterrupt). Hosts take
        each step together: one whose data fail goes on with its last batch until all
        know of it, before anything is made of that step. Raises TrainingEnded if data,
        numbers or the disk fail."""
        options, first = self.options, self.step + 1
        last = min(self.num_steps, options.stop_at_step or self.num_steps)
        count = {"initial": self.step, "total": self.num_steps, "unit": "step"}
        metrics, alone = {}, not has_other_hosts()
        stop.is_looked_for = True
        with tqdm.tqdm(desc="training", disable=not is_first_host(), **count) as bar:
            for step in range(first, last + 1):
                if (alone or step % 10 == 0) and self.stop_agreed(stop):
                    raise KeyboardInterrupt
                self.take_batch(metrics, stop)
                if alone or step == first:
                    self.stop_agreed(stop)
                self.state, metrics = self.step_fn(self.state, self.batch)
                self.step = step
                bar.update()
                if step == first:
                    jax.block_until_ready(metrics)  # compiled: from here on it counts
                    self.feeder.restart()
                evaluated = step % options.eval_freq == 0 or step == self.num_steps
                saved = step % options.save_freq == 0 or step == last
                if not (evaluated or saved or step % options.log_freq == 0):
                    continue
                if not alone:
                    self.stop_agreed(stop)
                values = self.read_metrics(metrics)
                bar.set_postfix(loss=f"{values['loss']:.3f}")
                self.log("training.jsonl", values)
                if evaluated:
                    self.evaluate(values)
                if saved:
                    self.save()
                self.feeder.restart()

    def stop(self) -> None:
        """Saves what is there when a signal came; a second signal stops it at once."""
        try:
            if any(x.is_deleted() for x in jax.tree.leaves(self.state)):
                raise KeyboardInterrupt  # the second, in a step, which uses a state up
            self.step = int(self.state.step)
            self.save()
            self.folder.draw_learning_curve()
        except KeyboardInterrupt:
            say("stopped at once")

    def close(self) -> None:
        """Ends its processes, and the memory they share with us."""
        self.feeder.batches.close()
        if self.wandb is not None:
            with contextlib.suppress(Exception):
                self.wandb.finish()


def has_other_hosts() -> bool:
    return jax.process_count() > 1


def settings(options) -> dict:
    """Returns the options as a dict, and the number of hosts."""
    return {**vars(options), "hosts": jax.process_count()}


def report(errors: dict[str, float]) -> str:
    """Says what evaluation.evaluate found."""
    calibration, times = "", evaluation.CALIBRATION
    if "error_scale_correlation" in errors:
        found = "/".join(f"{errors[f'error_within_{k}x']:.0%}" for k in times)
        right = "/".join(f"{evaluation.expected_within(k):.0%}" for k in times)
        within = f"within {'/'.join(map(str, times))} predicted scales"
        calibration = f", {found} of errors {within} (right: {right})"
    return (
        f"held-out median error {errors['model_median_px']:.2f} px at 256 (point stays "
        f"{errors['point_stays_median_px']:.2f}, constant velocity "
        f"{errors['constant_velocity_median_px']:.2f}, nearest support track "
        f"{errors['nearest_support_median_px']:.2f}), visibility right "
        f"{errors['occlusion_accuracy']:.1%}{calibration}"
    )


# Beginning.


def begin(options, folder: RunFolder, again: str) -> Run:
    """Returns a run at its first step, or where it stopped; arguments as in train."""
    count = jax.device_count()
    if options.batch_size % count:
        raise UserError(
            f"--batch_size={options.batch_size} must be a multiple of the {count} "
            "devices"
        )
    run_data.check_data(options)
    earlier = resumable(options, folder) if options.resume else []
    if not options.resume and folder.is_used():
        raise UserError(
            f"--checkpoint_dir={folder.path} holds a run: add --resume to go on with "
            "it, or name another directory"
        )
    model, num_steps = run_data.make_model(options), run_data.count_steps(options)
    plan = (options.learning_rate, num_steps, options.warmup_steps)
    how = (options.optimizer, options.weight_decay, options.clip_norm)
    optimizer = training.make_optimizer(*plan, *how)
    params = run_data.first_params(options, model)
    held_out = run_data.held_out_batches(options, model)
    say(
        f"{options.model_type} {options.preset}: "
        f"{sum(x.size for x in jax.tree.leaves(params)):,} parameters on "
        f"{count} × {jax.devices()[0].device_kind}, data of "
        f"{options.data_source}, held-out data of {run_data.eval_source(options)}, "
        f"{num_steps:,} steps"
    )
    everywhere, shared_out = training.make_shardings()
    terms = dataclasses.asdict(WEIGHTS)
    weights = LossWeights(**{x: getattr(options, f"{x}_weight") for x in terms})
    rate = options.ema_decay
    run = Run(
        options=options,
        folder=folder,
        again=again,
        model=model,
        held_out=held_out,
        step_fn=training.make_train_step(model, optimizer, weights, rate, everywhere),
        schedule=training.make_schedule(*plan),
        num_steps=num_steps,
        state=training.place(make_state(params, optimizer, options.seed), everywhere),
    )
    if earlier:
        run.resume(earlier)
    batches = run_data.training_batches(options, model, run.step)
    run.feeder = training.Feeder(batches, shared_out)
    folder.drop_lines(run.step)
    run.wandb = start_wandb(options, run.wandb_id, settings(options))
    return run


def resumable(options, folder: RunFolder) -> list[tuple[int, dict]]:
    """Returns steps that can be resumed from, the newest first, and what is beside;
    raises UserError if an option differs, TrainingEnded if none can be read."""
    found, steps = [], saved_steps(folder.states)
    for path in unfinished(folder.states):
        say(f"{path} is half-written: passed over")
    for step in steps:
        try:
            about = read_about(folder.states, step)
        except CheckpointError as error:
            say(f"{error}: passed over")
            continue
        refuse_changes(about["settings"], settings(options))
        found.append((step, about))
    if steps and not found:
        raise no_whole_state(folder)
    if not steps:
        say(f"nothing to resume in {folder.path}: starting at the first step")
    return found


def no_whole_state(folder: RunFolder) -> TrainingEnded:
    return TrainingEnded(
        f"no whole training state in {folder.states}: start anew in another "
        "--checkpoint_dir"
    )


def refuse_changes(before: dict, now: dict) -> None:
    """Raises UserError if a run cannot be resumed with these settings."""
    for name, value in now.items():
        if name not in CHANGEABLE and before.get(name) != value:
            raise UserError(
                f"--resume: this run has --{name}={before.get(name)}, not {value}; "
                "another value makes another run, in another --checkpoint_dir"
            )


# The whole.


def train(options, folder: RunFolder, again: str, stop: StopRequest) -> str:
    """Trains, and returns what to tell the user; raises TrainingEnded where something
    is kept, UserError for options or data, OSError for the disk."""
    run = begin(options, folder, again)
    try:
        run.take_steps(stop)
        folder.draw_learning_curve()
    except KeyboardInterrupt:
        run.stop()
        message = f"stopped at step {run.step}; {run.kept()}. {again}"
        raise TrainingEnded(message) from None
    except OSError as error:
        raise TrainingEnded(f"{error.strerror or error}; {run.kept()}") from error
    except jax.errors.JaxRuntimeError as error:
        if not is_lost_host(error, jax.process_count()):
            raise
        what = f"another host has ended or is out of reach ({first_line(error)})"
        raise TrainingEnded(f"{what}; {run.kept()}. {again}") from error
    finally:
        run.close()
    if run.step < run.num_steps:
        return f"stopped at step {run.step}; {run.kept()}. {again}"
    return f"weights: {folder.weights}"


def is_lost_host(error: jax.errors.JaxRuntimeError, num_hosts: int) -> bool:
    """Returns whether a device's error is another host's end, not memory run out."""
    return num_hosts > 1 and "RESOURCE_EXHAUSTED" not in str(error)
