"""Writes benchmarks/RESULTS.md from what the measuring scripts left in results/.

    python benchmarks/make_results.py

No figure is typed in: what has no file says "not measured" and how to measure it.
"""

import json
import pathlib
import sys

import targets
from bench_designs import DESIGNS

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results"
FORWARD = "python benchmarks/bench_forward.py --tapnet_repo=DIR"
FIGURES = {
    "parameters": "parameters",
    "gflop": "GFLOP",
    "seconds": "seconds",
    "gflop_per_s": "GFLOP/s",
    "of_matrix_rate": "of matrix rate",
    "peak_gb": "peak GB",
}
COMPARED = (
    "pair,slow s,fast s,times faster,at least,needed,turns,largest difference"
).split(",")
TRAINED = (
    "readout",
    "step",
    "mean error, px",
    "median, px",
    "point stays, mean",
    "nearest support track, mean",
    "visibility right",
    "seconds",
)
READOUT = (
    "python train.py --preset=mini --readout={} --batch_size=8 "
    "--num_query_points=24 --learning_rate=1e-3 --num_steps=400 --eval_freq=200 "
    "--num_scenes=6144 --pool_dir=runs/pool --checkpoint_dir=runs/{}"
)


def table(header: list[str], rows: list[list]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def number(value) -> str:
    """Returns three figures, or a dash for what is not there."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def not_measured(command: str, platform: str | None = None) -> str:
    """Returns what stands where there is no file, with how to make it."""
    if platform is None:
        return f"Not measured: `{command}`."
    title = platform.replace("cpu", "CPU").replace("gpu", "GPU")
    return f"### {title}\n\nNot measured. Where there is one: `{command}`."


def forward_section(platform: str) -> str:
    """Returns what bench_forward.py measured on a kind of device."""
    path = RESULTS / f"forward_{platform}.json"
    if not path.exists():
        return not_measured(FORWARD, platform)
    stored = json.loads(path.read_text())
    device = next(r["device"] for r in stored["rows"] if "device" in r)
    rows = []
    for r in stored["rows"]:
        size = "" if r["what"] == "matrix" else f"({r['tracks']}; {r['queries']})"
        what = f"{r['what']} {r['part']}".strip()
        cells = [number(r.get(name)) for name in FIGURES]
        if "error" in r:
            cells = ["failed"] + ["-"] * 5
        rows.append([what, size, r["dtype"], *cells])
    compared = [
        [c["name"], number(c.get("slow_seconds")), number(c.get("fast_seconds")),
         number(c.get("ratio")), number(c.get("lowest_ratio")), c["needed"],
         number(c.get("turns")), number(c.get("largest_difference"))]
        for c in stored["comparisons"]
    ]  # fmt: skip
    return "\n\n".join(
        [
            f"### {platform.upper()}: {device}",
            f"`{FORWARD}`",
            table(["what", "(tracks; queries)", "type", *FIGURES.values()], rows),
            "In turns in one process, at (256; 128): medians over the turns, and the "
            "lowest ratio of any. A pair that names tapnet is against the published "
            "module itself; *plain* is against the rewriting in tests/, which on "
            "some machines is slower than what was published.",
            table(COMPARED, compared),
        ]
    )


def readout_section() -> str:
    """Returns held-out errors of the joint and the cross readout, trained alike."""
    lines = [
        "## Joint and cross readout, trained alike at mini size",
        "Trained before the small model had its motion scaffold, which leaves both "
        "readouts less to say (commit ea0da0d: check that out to run it again).",
    ]
    rows, finals = [], {}
    for readout in ("joint", "cross"):
        path = RESULTS / f"readout_{readout}.jsonl"
        command = READOUT.format(readout, readout)
        if not path.exists():
            lines.append(f"{readout}: not measured. `{command}`")
            continue
        lines.append(f"`{command}`")
        for line in path.read_text().splitlines():
            m = json.loads(line)
            finals[readout] = m
            rows.append(
                [readout, m["step"], number(m["model_mean_px"]),
                 number(m["model_median_px"]), number(m["point_stays_mean_px"]),
                 number(m["nearest_support_mean_px"]),
                 f"{m['occlusion_accuracy']:.1%}", number(m["seconds"])]
            )  # fmt: skip
    if rows:
        lines.append(table(list(TRAINED), rows))
    if len({m["step"] for m in finals.values()}) == 2:
        lines.append("One of the two runs was not finished: no comparison yet.")
    elif len(finals) == 2:
        ratio = finals["cross"]["model_mean_px"] / finals["joint"]["model_mean_px"]
        lines.append(
            "At the last step the cross readout's mean error is "
            f"{ratio - 1:+.1%} against the joint readout's (allowed: +10%). "
            "Seconds are those of a machine that did other work too."
        )
    return "\n\n".join(lines)


def decode_section() -> str:
    """Returns what bench_decode.py measured."""
    command = "python benchmarks/bench_decode.py"
    path = RESULTS / "decode_cpu.json"
    if not path.exists():
        return f"## Reading video\n\n{not_measured(command)}"
    rows = [
        [row["what"], number(row["frames_per_second"]), number(row["cpu_seconds"])]
        for row in json.loads(path.read_text())["rows"]
    ]
    return "\n\n".join(
        [
            "## Reading video",
            "300 frames of 720p H.264, to RGB of at most 512 px, before (OpenCV) and "
            "now (PyAV), in turns, the fastest of each; both give the same bits.",
            f"`{command}`",
            table(["with", "frames per second", "CPU s"], rows),
        ]
    )


def training_section(platform: str) -> str:
    """Returns what bench_train.py measured on a kind of device."""
    command = "python benchmarks/bench_train.py"
    path = RESULTS / f"train_{platform}.json"
    if not path.exists():
        return not_measured(command, f"Training, {platform}")
    stored = json.loads(path.read_text())
    parts = [
        f"### Training, {platform.upper()}: {stored['devices']} × {stored['device']}, "
        f"{stored['cores']} CPU cores",
        f"`{command}`",
    ]
    for kind in ("generator", "loader", "step", "training"):
        rows = stored[kind]
        header = [name.replace("_", " ") for name in rows[0]]
        cells = [
            [x if isinstance(x, str) else number(x) for x in row.values()]
            for row in rows
        ]
        parts += [f"{kind}:", table(header, cells)]
    return "\n\n".join(parts)


def comparable_section() -> str:
    """Returns what bench_comparable.py found."""
    command = "python benchmarks/bench_comparable.py"
    path = RESULTS / "comparable.json"
    if not path.exists():
        return not_measured(command)
    found = json.loads(path.read_text())
    simulated = found["simulated"]
    rendered = [
        [row["what"], row["clips"], *shifts(row["surprise"]), *shifts(row["realism"]),
         f"±{row['allowed']:g}"]
        for row in found["rendered"]
    ]  # fmt: skip
    real = [
        [
            row["clip"],
            realism_text(row["realism"], row["realism_std"]),
            f"{row['converted']:.3f}" if "converted" in row else "",
            f"{row['file']:.3f}" if "file" in row else "",
        ]
        for row in found.get("real", [])
    ]
    checkpoint = found["checkpoint"]
    parts = [
        f"`{command}`, with {checkpoint['name']} ({checkpoint['sha256'][:12]}). Over "
        f"{len(simulated['clips'])} intact simulated clips realism is "
        f"{simulated['mean']:.3f} on average, with a standard deviation of "
        f"{simulated['deviations']['realism']:.3f} (the logit's: "
        f"{simulated['deviations']['surprise']:.2f}). Its rank correlation with what "
        "it should not depend on:",
        correlations(simulated),
    ]
    if filmed := found.get("filmed"):
        unseen = sum(clip["is_unseen"] for clip in filmed["clips"])
        parts += [
            f"The same over {len(filmed['clips'])} real clips, {unseen} of them judged "
            "by critics that saw nothing of their fold; their camera's motion is how "
            "far the median point moves:",
            correlations(filmed),
            *spread(filmed["spread"]),
        ]
    parts += [
        "Rendered intact scenes against themselves at half the resolution and rate, "
        "and their first halves, in the simulated clips' deviations, positive where "
        "they look less real by the logit and more real by realism; what is allowed is "
        "for the mean of the logit:",
        table(
            ["", "clips", "logit, mean", "median", "realism, mean", "median",
             "allowed"],
            rendered,
        ),
    ]  # fmt: skip
    if real:
        parts += [
            "Real clips, with the jackknife's deviation: their frames at "
            "the working size, these converted, and the files, whose full size counts.",
            table(["clip", "realism", "24 shown at 30 frames a second", "file"], real),
        ]
    return "\n\n".join(parts)


def spread(found: dict) -> list[str]:
    """Returns how evenly realism is spread over real clips, if any were unseen."""
    if not found["clips"]:
        return []
    distance, low = found["allowed"]
    return [
        f"Realism of these {found['clips']} is {found['distance']:.3f} from uniform "
        f"(Kolmogorov-Smirnov, p {found['p']:.3f}; to be {distance:g} at most), and "
        f"{found['low']:.0%} of them are below 0.05 (to be {low:.0%} at most)."
    ]


def realism_text(realism: float, spread: float | None) -> str:
    """Returns a realism with its deviation, if it has one."""
    return f"{realism:.3f}" + (f" ± {spread:.3f}" if spread is not None else "")


def correlations(found: dict) -> str:
    """Returns a table of realism's rank correlations over clips."""
    rows = [
        [
            row["what"].replace("_", " "),
            f"{row['spearman']:+.2f}",
            f"{row['interval'][0]:+.2f} to {row['interval'][1]:+.2f}",
            f"±{row['allowed']:g}",
        ]
        for row in found["correlations"]
    ]
    return table(["with", "Spearman", "95% interval", "allowed"], rows)


def shifts(change: dict) -> tuple[str, str]:
    """Returns a mean change with its interval, and the median one."""
    mean = "{value:+.2f} [{low:+.2f}, {high:+.2f}]".format(**change)
    return mean, f"{change['median']:+.2f}"


def scaffold_section() -> str:
    """Returns what bench_scaffold.py measured."""
    command = "python benchmarks/bench_scaffold.py"
    path = RESULTS / "scaffold.json"
    if not path.exists():
        return not_measured(command)
    stored = json.loads(path.read_text())
    rows = [
        [row["latents"], number(row["median_px"]), number(row["mean_px"])]
        for row in stored["rows"]
    ]
    return "\n\n".join(
        [
            f"`{command}`, on {stored['scenes']} simulated scenes",
            table(["latents", "median, px", "mean, px"], rows),
        ]
    )


def pipeline_section(platform: str) -> str:
    """Returns what bench_pipeline.py measured on a kind of device."""
    command = "python benchmarks/bench_pipeline.py"
    path = RESULTS / f"pipeline_{platform}.json"
    if not path.exists():
        return not_measured(command, platform)
    stored = json.loads(path.read_text())
    header = [name.replace("_", " ") for name in stored["rows"][0]]
    rows = [
        [x if isinstance(x, str) else number(x) for x in row.values()]
        for row in stored["rows"]
    ]
    return "\n\n".join(
        [
            f"### {platform.upper()}: {stored['device']}",
            f"`{command}`",
            *([stored["note"]] if "note" in stored else []),
            table(header, rows),
        ]
    )


def large_section() -> str:
    """Returns what bench_large.py measured."""
    command = "python benchmarks/bench_large.py"
    path = RESULTS / "large_cpu.json"
    if not path.exists():
        return not_measured(command)
    stored = json.loads(path.read_text())
    rows = [
        [row["what"], number(row["seconds"]), number(row["peak_gb"]), stored["most_gb"]]
        for row in stored["rows"].values()
    ]
    return "\n\n".join(
        [
            f"`{command}`, on {stored['device']}",
            table(["what", "seconds", "peak GB", "at most"], rows),
        ]
    )


def timed_section(name: str, platform: str) -> str:
    """Returns what bench_NAME.py measured on a device: seconds, and how many may be."""
    command = f"python benchmarks/bench_{name}.py"
    path = RESULTS / f"{name}_{platform}.json"
    if not path.exists():
        return not_measured(command, platform)
    stored = json.loads(path.read_text())
    rows = [
        [
            row["what"],
            number(row["seconds"]),
            number(row["cpu_seconds"]),
            number(row["at_most"]) if "at_most" in row else "",
        ]
        for row in stored["rows"]
    ]
    return "\n\n".join(
        [
            f"### {platform.upper()}: {stored['device']}, {stored['cores']} CPU cores",
            f"`{command}`",
            table(["what", "seconds", "CPU seconds", "at most"], rows),
        ]
    )


REPORT = (
    "python evaluate_benchmarks.py --benchmark={0} {2} --output_dir=outputs/{1} "
    "&& cp outputs/{1}/report.md benchmarks/results/{1}.md"
)
FILMED = "../shared/videos"  # clips with a manifest, which are not shipped
GENERATED = f"--dataset_path={FILMED}/manifest.csv --ratings_csv={FILMED}/ratings.csv"


def interval(value: dict) -> str:
    """Returns a figure with its 95% interval."""
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def report_section(benchmark: str, more_flags: str, name: str | None = None) -> str:
    """Returns what a benchmark's report.md says."""
    command = REPORT.format(benchmark, name or benchmark, more_flags)
    path = RESULTS / f"{name or benchmark}.md"
    if not path.exists():
        return not_measured(command)
    return f"`{command}`\n\n{path.read_text().strip()}"


def tracker_section() -> str:
    """Returns what bench_tracker.py measured."""
    command = "python benchmarks/bench_tracker.py"
    path = RESULTS / "tracker.json"
    if not path.exists():
        return not_measured(command)
    stored = json.loads(path.read_text())
    parts = [
        f"`{command}`. *Error* is of points that are seen and said to be, *lost* the "
        "share of those seen that are said to be hidden, *false* of those said to be "
        "seen, hidden or more than 8 px off. *Blurred* pictures are the mean of three "
        "of a frame's four moments. In real clips points are followed through 24 "
        "frames and, where they are *left*, back again: *distance* is between where "
        "they began and came back to, *wrong* the share of more than 4 px.",
    ]
    for rows in filter(None, (stored["scenes"], stored["real"])):
        cells = [
            [
                "{} [{}, {}]".format(*(number(x[k]) for k in ("value", "low", "high")))
                if isinstance(x, dict)
                else x
                for x in row.values()
            ]
            for row in rows
        ]
        parts.append(table(list(rows[0]), cells))
    return "\n\n".join(parts)


def designs_section() -> str:
    """Returns what bench_designs.py measured."""
    command = "python benchmarks/bench_designs.py --num_scenes=4"
    path = RESULTS / "designs.json"
    if not path.exists():
        return not_measured(command)
    rows = json.loads(path.read_text())["rows"]
    cells = [
        [row["commit"], DESIGNS.get(row["commit"], row["subject"]),
         number(row["sample"]), number(row["teleport"]),
         *(interval(row[condition][question]) for condition in ("true", "noisy")
           for question in ("across", "paired"))]
        for row in rows
    ]  # fmt: skip
    head = ["commit", "design", "sample", "its teleport"]
    head += ["true, AUROC", "true, pairs", "noisy, AUROC", "noisy, pairs"]
    scenes = ", ".join(dict.fromkeys(str(row["scenes"]) for row in rows))
    text = (
        f"`{command}`: realism of the sample clip (to be above 0.3) and of its twin "
        f"whose cylinder jumps (to be 0.03 at most), and of twins of {scenes} "
        "simulated scenes, of today's twelve kinds, which each critic has learned from."
    )
    return "\n\n".join([text, table(head, cells)])


def stereo_section() -> str:
    """Returns what bench_stereo4d.py measured."""
    command = "python benchmarks/bench_stereo4d.py"
    path = RESULTS / "stereo4d.json"
    if not path.exists():
        return not_measured(command)
    stored = json.loads(path.read_text())
    rows = [[x["what"], number(x["measured"]), x["to be"]] for x in stored["rows"]]
    text = (
        f"`{command}`, on {stored['scenes']} simulated scenes with moving cameras, "
        f"pictures of {stored['size']} px. *lk* are the embedded tracker's tracks, "
        "*exact* the scene's own; *over measured*: the error in space after the "
        "optimisation over that of the disparity alone, at that quantile; *published*: "
        "the published objective."
    )
    return "\n\n".join([text, table(["", "measured", "to be"], rows)])


def semantic_section() -> str:
    """Returns what bench_semantic.py measured."""
    command = "python benchmarks/bench_semantic.py"
    path = RESULTS / "semantic_cpu.json"
    if not path.exists():
        return not_measured(command)
    stored = json.loads(path.read_text())
    costs = [
        [row["what"], number(row["seconds"]), number(row.get("at_most"))]
        for row in stored["seconds"]
    ]
    names = ("bipartite", "kmeans", "bipartite, reached", "kmeans, reached")
    agreement = [
        [
            row["things"],
            row["dim"],
            number(row["noise"]),
            *(number(row[n]) for n in names),
        ]
        for row in stored["clusters"]
    ]
    shares = [
        [row["sampling"], f"{row['share']:.1%}", number(row["of_grid"]),
         f"{row['better_in']:.0%}"]
        for row in stored["moving"]
    ]  # fmt: skip
    scenes = stored["clusters"][0]["scenes"]
    parts = [
        f"`{command}`, {stored['cores']} CPU cores. There is no network in it: "
        "features are a unit vector per thing, averaged over the patch, with noise of "
        "that length. Seconds are those of a machine that did other work too.",
        table(["clustering", "seconds", "at most"], costs),
        f"Adjusted Rand index over {scenes} simulated scenes of 2 to 8 things, against "
        "what most of a patch shows (kmeans has as many clusters as there are things), "
        "and the share of things of at least 1% of the first frame that get a point. "
        "Where all that stands still is one thing, most of the twelve centroids are "
        "its own and share it among them; noise of 0.4 in 16 dimensions has a standard "
        "deviation of 0.1 in each.",
        table(["things", "dimensions", "noise", "bipartite", "kmeans",
               "reached, bipartite", "reached, kmeans"], agreement),
        "Share of query points on moving things, in scenes where these cover 0.2% to "
        "10% of the frames, at an equal number of points; and the scenes in which it "
        "is more than the grid's.",
        table(["points", "on moving things", "times the grid's", "more in"], shares),
    ]  # fmt: skip
    if "twins" in stored:
        figures = stored["twins"]["figures"]
        first = next(iter(figures.values()))
        measures = [name for name, x in first.items() if isinstance(x, dict)]
        rows = [
            [name, number(round(found["tracks"])),
             *(interval(found[measure]) for measure in measures)]
            for name, found in figures.items()
        ]  # fmt: skip
        parts += [
            f"`{command} --num_twin_scenes={stored['twins']['scenes']}`: impossible "
            f"twins of {stored['twins']['scenes']} rendered scenes through "
            f"the Lucas-Kanade tracker, {first['num']} twins, the same for all: paired "
            "accuracy, and AUROC across clips.",
            table(["points", "tracks", *measures], rows),
        ]
    return "\n\n".join(parts)


def main() -> None:
    """Writes RESULTS.md."""
    parts = [
        "# Results",
        "Written by `python benchmarks/make_results.py` from `benchmarks/results/`. "
        "Errors are in pixels of a frame whose shorter side has 256.",
        "## Forward pass at TRAJAN's size",
        "`tapnet` is the published module itself, from a clone of "
        "github.com/google-deepmind/tapnet in DIR, as it comes and with its own option "
        "to decode queries in chunks; `plain` is the same computation written anew "
        "(tests/reference_model.py), and `plain, chunked` its decoder over chunks of "
        "queries; `all` is encoder and decoder, `decode` the decoder alone. FLOPs are "
        "those of the program as XLA counts them, so that exact savings show as fewer "
        "of them, but for frames in which tracks are hidden, a third of these: on a "
        "CPU ours leaves out a quarter, which are counted still.",
        forward_section("cpu"),
        forward_section("gpu"),
        "## Training speed\n\n`step` repeats one batch, and its utilisation is against "
        "a large product of matrices in the same type; `training` takes data from so "
        "many processes, and `data wait` is the share of time that steps waited for "
        "it.",
        training_section("cpu"),
        training_section("gpu"),
        readout_section(),
        "## The motion scaffold, before any training",
        scaffold_section(),
        "## Lifting and sampling\n\n4096 tracks of 150 frames, 720p depth, 36 x 64 "
        "maps of 768 features.",
        timed_section("sampling", "cpu"),
        timed_section("sampling", "gpu"),
        "## TAPVid-3D metrics\n\n64 clips of 256 tracks and 150 frames, all "
        "thresholds; `local_neighborhood` with tracks spread over 4 m and over 0.3 m.",
        timed_section("metrics", "cpu"),
        "## Painting tracks\n\n2,048 points on 150 frames of 512 x 512, trails of 5 "
        "steps. CPU seconds leave out those of ffmpeg.",
        timed_section("visualize", "cpu"),
        "## Lists of many clips\n\nWhat a list takes beside its clips, in files of one "
        "name in folders of their own, or of different names. In the second run all "
        "are finished.",
        timed_section("lists", "cpu"),
        "## Is realism comparable between clips?",
        comparable_section(),
        "## Does the score mean anything?\n\n*Paired*: the damaged clip scores below "
        "its own original, ties counting half. *Across clips*: AUROC of any intact "
        "clip against any damaged one of the same condition. Intervals are 95%, "
        "bootstrapped by scene or video. Of simulated scenes, *true* tracks are the "
        "simulator's, *noisy* ones carry a tracker's noise, *rendered* ones are what "
        "the Lucas-Kanade tracker makes of rendered pictures. The critic without model "
        "is fitted as the other is, but for what the autoencoder expected.",
        "### What was to be reached\n\n*Group left out*: by critics that never saw a "
        "kind of its group. Bars were set before anything was measured; the tables "
        "below have the baselines.",
        table(["of", "", "in", "measured", "to be", ""], targets.reached()),
        "### Simulated scenes and their impossible twins",
        *(
            report_section(
                "synthetic",
                f"--conditions={condition} {more} --pool_dir=outputs/pool",
                f"synthetic_{condition}",
            )
            for condition, more in (
                ("true", "--num_scenes=145"),
                ("noisy", "--kinds=first --num_scenes=145"),
                ("rendered", "--kinds=first --num_scenes=24"),
            )
        ),
        "### Real clips and damaged copies",
        "Each fold is judged by a critic that saw nothing of it, and compared with the "
        "other folds' clips, as critics judge them that saw nothing of theirs. *Of "
        "frames* are the five other than replaced objects.",
        report_section(
            "corruptions",
            f"--folds_csv={FILMED}/manifest.csv --folds=0,1,2,3 --num_seeds=1",
        ),
        "### Real against generated",
        report_section(
            "generated",
            f"{GENERATED} --folds=0,1,2,3 --fit",
        ),
        "### Once, on what no choice was made on",
        "Fold 4 of these clips, of which the shipped critic has seen none.",
        report_section(
            "corruptions",
            f"--folds_csv={FILMED}/manifest.csv --folds=4 --num_seeds=1",
            "corruptions_held_back",
        ),
        report_section(
            "generated",
            f"{GENERATED} --folds=4",
            "generated_held_back",
        ),
        "### Designs that were tried",
        designs_section(),
        "## The embedded tracker",
        tracker_section(),
        "## Stereo video to tracks",
        stereo_section(),
        "## Semantic query points",
        semantic_section(),
        "## Scoring a video, with the mini preset\n\nThe second run in a process, from "
        "the file to the files. `encode` and `predict` are the model; `score` is all "
        "between the stages; peak memory is the whole process's while a stage ran, of "
        "which `at rest` was there before.",
        pipeline_section("cpu"),
        pipeline_section("gpu"),
        decode_section(),
        "## Large inputs\n\nWhole commands, started anew with nothing compiled before; "
        "memory is that of all processes that a command starts, together.",
        large_section(),
    ]
    path = HERE / "RESULTS.md"
    path.write_text("\n\n".join(parts) + "\n")
    print(path)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit("make_results.py takes no arguments: it writes benchmarks/RESULTS.md")
    main()
