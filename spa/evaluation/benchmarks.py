"""The benchmarks by name, and how one is run. A new one is its file and a line here."""

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from spa.errors import UserError
from spa.evaluation import (
    comparison,
    evalcrafter,
    generated,
    intphys2,
    labelled,
    twins,
    videophy2,
)
from spa.evaluation.reports import Report, write_report
from spa.evaluation.tables import Clip, match_scores
from spa.flags import check_output_dir
from spa.realism.many import Tally, score_many
from spa.realism.options import make_options
from spa.realism.score_table import SCORES
from spa.realism.scorer import Scorer


class Benchmark(NamedTuple):
    """The functions of a benchmark: `read`, of the dataset's path to clips, and
    `report`, of clips and scores [N]; or `run` does it all. Each gets the flags its
    parameters name."""

    read: Callable[..., list[Clip]] | None = None
    report: Callable[..., Report] | None = None
    path_flag: str = "dataset_path"
    run: Callable[..., str] | None = None
    is_scoring: bool = False


BENCHMARKS = {
    "videophy2": Benchmark(videophy2.read_videophy2, videophy2.report_videophy2),
    "evalcrafter": Benchmark(
        evalcrafter.read_evalcrafter, evalcrafter.report_evalcrafter, "ratings_csv"
    ),
    "intphys2": Benchmark(intphys2.read_intphys2, intphys2.report_intphys2),
    "synthetic": Benchmark(run=twins.run, is_scoring=True),
    "corruptions": Benchmark(run=twins.run, is_scoring=True),
    "generated": Benchmark(run=generated.run, is_scoring=True),
    "csv": Benchmark(labelled.read_labelled, labelled.report_labelled),
    "compare": Benchmark(run=comparison.compare_folders),
}


def run_benchmark(values: Mapping[str, object], options: Mapping) -> tuple[str, bool]:
    """Runs a benchmark, and writes its report.

    Values are flags of evaluate_benchmarks.py by name and perhaps screen_width, options
    those fields of Options that are given. Returns what to print, and whether every
    video was scored. Raises UserError: what is wrong with flags, dataset or folders,
    before any is scored.
    """
    name = values["benchmark"]
    if name not in BENCHMARKS:
        raise UserError(f"which benchmark? give --benchmark={'|'.join(BENCHMARKS)}")
    score_name, benchmark = values["score_name"], BENCHMARKS[name]
    if score_name not in SCORES:
        raise UserError(f"no score {score_name!r}: have {', '.join(SCORES)}")
    if benchmark.read:
        return _score_and_report(benchmark, values, options)
    is_sharded = values["num_shards"] != 1 or values["shard_index"]
    if benchmark.is_scoring and is_sharded:
        raise UserError(f"num_shards and shard_index are not for --benchmark={name}")
    check_output_dir(values["output_dir"])
    logging.getLogger("spa.realism").setLevel(logging.WARNING)
    chosen = _select_flags(benchmark.run, values)
    return benchmark.run(**chosen, **(options if benchmark.is_scoring else {})), True


def _score_and_report(benchmark, values, options):
    path = values[benchmark.path_flag] or values["dataset_path"]
    if not path:
        raise UserError(
            f"--benchmark={values['benchmark']} needs --{benchmark.path_flag}"
        )
    reading = _select_flags(benchmark.read, values)
    clips = benchmark.read(path, **reading)
    check_output_dir(values["output_dir"])
    tally = _score_clips(clips, values, options)
    done = f"{tally.scored} scored, {tally.finished} finished before"
    done += f", {tally.failed} failed"
    if values["num_shards"] > 1:
        done += "\nwhen all shards are done, the same command without them reports"
        return done, not tally.failed
    scores = match_scores(clips, tally.rows, values["score_name"])
    report = benchmark.report(clips, scores, **_select_flags(benchmark.report, values))
    if tally.failed:
        report.notes.append(f"{tally.failed} of {len(clips)} clips have no score")
    about = {
        "benchmark": values["benchmark"],
        "score": values["score_name"],
        "split": reading.get("split"),
    }
    text = write_report(
        report,
        values["output_dir"],
        about,
        clips,
        tally.rows,
        done,
        values.get("screen_width"),
    )
    return text, not tally.failed


def _score_clips(clips, values, options) -> Tally:
    scorer = Scorer(
        values["checkpoint_path"], make_options(values["preset"], **options)
    )
    # What is decided for one clip is not for a list of many.
    logging.getLogger("spa.realism").setLevel(logging.WARNING)
    return score_many(
        [clip.video for clip in clips],
        score=scorer.score,
        options=scorer.options,
        checkpoint=scorer.checkpoint,
        critic=scorer.critic,
        **_select_flags(score_many, values),
    )


def _select_flags(function, values) -> dict:
    names = inspect.signature(function).parameters
    return {name: values[name] for name in names if name in values}
