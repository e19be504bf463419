"""What realism was to reach (TARGETS), beside what the reports in results/ say."""

import json
import operator
import re
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
HOLDS = {">=": operator.ge, "<=": operator.le}

PAIRS, ACROSS = "paired", "across clips (AUROC)"
ALL = "all points"
SEEN, UNSEEN = "realism", "realism, group left out"
LEFT_OUT = "by surprise, from true tracks; its group left out"
DAMAGES = "shuffled", "frozen", "jump", "jittery_warp"

TWINS = [
    ("true", SEEN, ACROSS, ">= 0.90"),
    ("true", SEEN, PAIRS, ">= 0.92"),
    ("noisy", SEEN, ACROSS, ">= 0.88"),
    ("rendered", SEEN, ACROSS, ">= 0.70"),
    ("true", UNSEEN, ACROSS, ">= 0.72"),
    ("noisy", UNSEEN, ACROSS, ">= 0.75"),
    ("rendered", UNSEEN, ACROSS, ">= 0.62"),
]
CULPRITS = [
    ("continuity", ">= 0.95"),
    ("permanence", ">= 0.94"),
    ("solidity", ">= 0.94"),
    ("dynamics", ">= 0.94"),
]
DAMAGED = [
    *((kind, ACROSS, ">= 0.90") for kind in DAMAGES),
    *((kind, PAIRS, ">= 0.95") for kind in DAMAGES),
    ("soft_warp", PAIRS, ">= 0.85"),
    ("object_replaced", PAIRS, ">= 0.65"),
]
GENERATED = [("AUROC, by pair", ">= 0.70"), ("within pairs", ">= 0.85")]
HELD_BACK = "", "_held_back"

# What, of which report, a part of a table's heading, its row and column, the bar.
TARGETS = [
    *(
        (f"twins, {which} tracks: {row}", f"synthetic_{which}", "pooled:", row, *rest)
        for which, row, *rest in TWINS
    ),
    *(
        (f"culprits, {group} left out", "synthetic_true", LEFT_OUT, group, ALL, bar)
        for group, bar in CULPRITS
    ),
    *(
        (f"real clips, {kind}", f"corruptions{end}", f"real, {of}", kind, SEEN, bar)
        for end in HELD_BACK
        for kind, of, bar in DAMAGED
    ),
    *(
        ("real against generated", f"generated{end}", "real against", SEEN, of, bar)
        for end in HELD_BACK
        for of, bar in GENERATED
    ),
]


def look_up(report: str, heading: str, row: str, column: str) -> str | None:
    """Returns a cell of the table below a heading of a report, None if it has none."""
    tables = [x for x in report.split("####") if heading in x.split("\n")[0]]
    cells = [
        [cell.strip() for cell in line.replace("\\", "").strip("|").split("|")]
        for line in (tables[0] if tables else "").splitlines()
        if line.startswith("|")
    ]
    for name, *values in cells[2:]:
        if name == row and column in cells[0]:
            return values[cells[0].index(column) - 1].rstrip("*")
    return None


def reached() -> list[list[str]]:
    """Returns what, the question, the report, what was measured, the bar, and whether
    it is met, of all that were measured."""
    rows = []
    for what, name, heading, row, column, bar in TARGETS:
        path = RESULTS / f"{name}.md"
        text = path.read_text() if path.exists() else ""
        question = PAIRS if heading.endswith(PAIRS) else column
        question = ACROSS if heading.endswith(ACROSS) else question
        if found := look_up(text, heading, row, column):
            rows.append([what, question, name, found, bar, _is_met(found, bar)])
    return rows + _of_clips() + _of_designs()


def _is_met(found, bar) -> str:
    sign, number = bar.split()
    value = float(re.match(r"[-+.\d]+", found)[0])
    return "met" if HOLDS[sign](value, float(number)) else "**missed**"


def _row(what, question, name, value, bar):
    found = f"{value:.3f}"
    return [what, question, name, found, bar, _is_met(found, bar)]


def _of_clips() -> list[list[str]]:
    """What bench_comparable.py measured, likewise."""
    path, rows = RESULTS / "comparable.json", []
    if not path.exists():
        return rows
    found = json.loads(path.read_text())
    if (spread := found.get("filmed", {}).get("spread", {})).get("clips"):
        what, most = "intact real clips, unseen", spread["allowed"]
        for key, question, bar in (
            ("distance", "distance from uniform", most[0]),
            ("low", "share below 0.05", most[1]),
        ):
            rows.append(_row(what, question, "comparable", spread[key], f"<= {bar:g}"))
    for part, what in (("simulated", "simulated clips"), ("filmed", "real clips")):
        for each in found.get(part, {}).get("correlations", []):
            question = f"correlation with {each['what'].replace('_', ' ')}, size"
            value, bar = abs(each["spearman"]), f"<= {each['allowed']:g}"
            rows.append(_row(what, question, "comparable", value, bar))
    for each in found["rendered"]:
        value, bar = abs(each["surprise"]["value"]), f"<= {each['allowed']:g}"
        question = f"{each['what']}: change of the logit, deviations, size"
        rows.append(_row("rendered clips", question, "comparable", value, bar))
    return rows


def _of_designs() -> list[list[str]]:
    """What the newest of bench_designs.py makes of the sample, likewise."""
    path = RESULTS / "designs.json"
    if not path.exists():
        return []
    newest = json.loads(path.read_text())["rows"][-1]
    return [
        _row("sample clip", "realism", "designs", newest["sample"], ">= 0.3"),
        _row("its teleport", "realism", "designs", newest["teleport"], "<= 0.03"),
    ]
