"""The model and the data of a training run, by the flags of train.py; what cannot be is
a UserError that names the flag."""

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Iterator

import jax
from tqdm import tqdm

import track_autoencoder
import track_autoencoder_3d
from spa.data.examples import example_features
from spa.data.loading import (
    SOURCES,
    dataset_size,
    load_dataset,
    load_examples,
    open_source,
    started,
)
from spa.data.mixture import MixedSource, Part, parse_mix
from spa.errors import UserError, first_line
from spa.model import checkpoints
from spa.simulation.scene_pool import ScenePool
from track_autoencoder import TrackAutoEncoder

EVALUATION_SEED = 1  # pools of different seeds share no scene
# Sources that have parts, and which are taken if none is named.
SPLITS = {
    "kubric": {"split": "train", "eval_split": "validation"},
    "tapvid3d": {"split": None, "eval_split": None},
}
# Beside tracks, where the files need not be looked into.
SOURCE_FEATURES = {"kubric": {"depth"}}


def check_data(options) -> None:
    """Raises UserError if there is no such dataset, or held-out data are not."""
    if options.mix:
        _check_mix(options)
    where = []
    for source, name, part in (
        (options.data_source, "dataset_path", "split"),
        (eval_source(options), "eval_dataset_path", "eval_split"),
    ):
        path = getattr(options, name)
        if source == "synthetic" and path is not None:
            raise UserError(
                f"--{name} was given, but the data is simulated: which source is it?"
            )
        if source != "synthetic" and path is None:
            raise UserError(f"data of {source} must be somewhere: give --{name}")
        if path is not None and not os.path.exists(path):
            raise UserError(f"no such dataset: --{name}={path}")
        split = split_argument(options, source, part)
        where.append((source, path and os.path.realpath(path), split))
    if where[0] == where[1] and options.data_source != "synthetic":
        raise UserError(
            f"--eval_dataset_path={options.eval_dataset_path} holds the clips that are "
            "trained on: name others, or none for simulated scenes"
        )


def _check_mix(options) -> None:
    for part in mixture(options):
        if part.path is not None and not os.path.exists(part.path):
            raise UserError(f"--mix={options.mix}: there is no {part.path}")
        if part.source in SPLITS and options.split is not None:
            raise UserError("--mix takes the default parts of sources: leave --split")
    if options.dataset_path is not None or options.data_source != "synthetic":
        raise UserError(
            "--mix names its sources and where they are: leave out --data_source and "
            "--dataset_path"
        )


def mixture(options) -> list[Part]:
    """Returns the sources of --mix; none without."""
    return parse_mix(options.mix, SOURCES) if options.mix else []


def split_argument(options, source: str, name: str) -> dict[str, str | None]:
    """Returns the loader's argument for a flag, "split" or "eval_split"; most sources
    have none."""
    value = getattr(options, name)
    if source not in SPLITS:
        if value is not None:
            raise UserError(f"--{name}={value}: data of {source} has no such parts")
        return {}
    return {"split": SPLITS[source][name] if value is None else value}


def eval_source(options) -> str:
    """Returns where held-out clips come from."""
    if options.eval_data_source is not None:
        return options.eval_data_source
    return "synthetic" if options.eval_dataset_path is None else options.data_source


def source_features(options) -> set[str]:
    """Returns what the training data has beside tracks: "dino", "depth"."""
    if options.mix:
        return set().union(
            *(_part_features(options, part) for part in mixture(options))
        )
    if options.data_source == "synthetic":
        return {"depth"} if options.num_depth_scenes else set()
    if options.data_source != "npz":
        return SOURCE_FEATURES.get(options.data_source, set())
    return example_features(options.dataset_path)


def _part_features(options, part: Part) -> set[str]:
    if part.source == "synthetic":
        return {"depth"} if options.num_depth_scenes else set()
    if part.source == "npz":
        return example_features(part.path)
    return SOURCE_FEATURES.get(part.source, set())


def choose_features(options) -> dict[str, bool]:
    """Chooses `use_dino` and `use_depth`: as asked for, else what model and data
    have."""
    is_3d = options.model_type == "3dspa"
    found = source_features(options) if is_3d else set()
    chosen = {}
    for name in ("dino", "depth"):
        asked = getattr(options, f"use_{name}")
        if asked and not is_3d:
            raise UserError(f"--use_{name}: only --model_type=3dspa takes features")
        if asked and name not in found:
            hint = ": give --num_depth_scenes" if name == "depth" else ""
            raise UserError(
                f"--use_{name}: {options.data_source} data has no {name} features"
                f"{hint if options.data_source == 'synthetic' else ''}"
            )
        chosen[f"use_{name}"] = name in found if asked is None else asked
    return chosen


def make_model(options) -> TrackAutoEncoder:
    """Returns the model that is asked for."""
    changes = {**choose_features(options), "dtype": options.dtype}
    for name in ("num_output_frames", "readout"):
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    is_2d = options.model_type == "trajan"
    module = track_autoencoder if is_2d else track_autoencoder_3d
    return module.make_model(options.preset, **changes)


def first_params(options, model: TrackAutoEncoder) -> dict:
    """Returns random parameters, or those of --init_checkpoint, if it is of the same
    model."""
    if options.init_checkpoint is None:
        return checkpoints.init_params(model, options.seed)
    checkpoint = checkpoints.load_checkpoint(options.init_checkpoint)
    found = dataclasses.asdict(checkpoint.config)
    wanted = dataclasses.asdict(track_autoencoder.model_config(model))
    names = [name for name, value in wanted.items() if found[name] != value]
    different = [f"{name} {found[name]}, not {wanted[name]}" for name in names]
    if different:
        raise UserError(
            f"--init_checkpoint={options.init_checkpoint} is another model: it has "
            f"{'; '.join(different)}"
        )
    return checkpoint.params


def count_steps(options) -> int:
    """Returns the steps of the whole run."""
    if options.num_steps is not None:
        return options.num_steps
    if options.mix:
        clips = len(_mixed(options, range(options.num_scenes)))
    elif options.data_source == "synthetic":
        clips = options.num_scenes
    else:
        part = split_argument(options, options.data_source, "split")
        clips = dataset_size(options.data_source, options.dataset_path, **part)
    return max(1, math.ceil(options.num_epochs * clips / options.batch_size))


def simulated_scenes(options, model, depth_scenes: int, **how) -> ScenePool:
    """Returns simulated scenes as long as the model's window or longer, with features
    for all of the support."""
    support, query = options.num_support_tracks, options.num_query_points
    return ScenePool(
        num_frames=max(64, model.num_output_frames),
        num_tracks=max(320, support + query),
        depth_feature_tracks=max(192, support),
        cache_dir=options.pool_dir,
        depth_feature_scenes=depth_scenes if model.use_depth else 0,
        **how,
    )


def _mixed(options, scenes) -> MixedSource:
    """The sources of --mix, with these simulated scenes."""
    parts = mixture(options)
    sources = [
        scenes
        if part.source == "synthetic"
        else open_source(part.source, part.path, **_default_part(part.source))
        for part in parts
    ]
    return MixedSource(sources, [part.share for part in parts])


def _default_part(source):
    default = SPLITS.get(source, {}).get("split")
    return {} if default is None else {"split": default}


def batches(options, model, source, path, batch_size: int, seed: int, **how):
    """Returns an iterator of batches as the options and the model want them; source: a
    name, or a source itself."""
    if isinstance(source, str):
        source = functools.partial(load_dataset, source, path)
    else:
        source = functools.partial(load_examples, source)
    return source(
        batch_size,
        num_support=options.num_support_tracks,
        num_query=options.num_query_points,
        num_output_frames=model.num_output_frames,
        model_type=model.model_type,
        seed=seed,
        use_dino=model.use_dino,
        use_depth=model.use_depth,
        skip_corrupt=options.skip_corrupt,
        **how,
    )


def held_out_batches(options, model) -> list[dict]:
    """Returns held-out batches, the same on every host, as large as a device's part."""
    source, count = eval_source(options), options.num_eval_scenes
    how = {"augment": False, "num_epochs": 1}
    how |= split_argument(options, source, "eval_split")
    if source == "synthetic":
        sizes = {"num_scenes": count, "seed": EVALUATION_SEED}
        how["pool"] = simulated_scenes(options, model, count, **sizes)
        how["num_workers"] = options.num_workers
    size = max(1, options.batch_size // jax.device_count())
    where = (source, options.eval_dataset_path, size, EVALUATION_SEED)
    held_out, missing = [], count
    made = started(batches(options, model, *where, **how))
    with contextlib.closing(made), tqdm(desc="held-out clips", total=count) as bar:
        while missing > 0 and (batch := next_batch(made)):
            held_out.append({name: array[:missing] for name, array in batch.items()})
            missing -= len(batch["boundary_frame"])
            bar.update(len(held_out[-1]["boundary_frame"]))
    if not held_out:
        raise UserError(f"no clip is held out in {options.eval_dataset_path}")
    return held_out


def next_batch(made: Iterator[dict]) -> dict | None:
    """Returns the next held-out batch, if there is one; raises UserError whatever a
    worker died of."""
    try:
        return next(made, None)
    except Exception as error:
        raise UserError(f"no held-out clips: {first_line(error)}") from error


def training_batches(options, model, first: int) -> Iterator[dict]:
    """Returns this host's share of the training data, for ever, from a step on."""
    host, hosts, source = jax.process_index(), jax.process_count(), options.data_source
    # Shares of one order: of another on each host they would overlap.
    how = {"first_batch": first, "shard_index": host, "shard_count": hosts}
    how |= {"num_epochs": None, "num_workers": options.num_workers}
    how |= {"modality_dropout": options.modality_dropout, "augment": True}
    how |= split_argument(options, source, "split")
    if source == "synthetic":
        # Any --seed may be asked for, but none trains on the held-out scenes.
        seed = options.seed + (options.seed >= EVALUATION_SEED)
        sizes = {"num_scenes": options.num_scenes, "seed": seed}
        sizes["is_endless"] = options.pool_dir is None
        depth_scenes = options.num_depth_scenes
        scenes = simulated_scenes(options, model, depth_scenes, **sizes)
        if options.mix:
            source = _mixed(options, scenes)
        else:
            how["pool"] = scenes
    where = (source, options.dataset_path, options.batch_size // hosts, options.seed)
    return started(batches(options, model, *where, **how))
