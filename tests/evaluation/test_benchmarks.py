"""What the table of benchmarks says of flags that do not fit."""

import pytest
from table_files import refused

from spa.evaluation.benchmarks import run_benchmark


@pytest.mark.parametrize(
    "message, flags",
    [
        (r"which benchmark\? give --benchmark=videophy2\|", {"benchmark": "vbench"}),
        ("no score 'x': have realism", {"benchmark": "csv", "score_name": "x"}),
        ("evalcrafter needs --ratings_csv", {"benchmark": "evalcrafter"}),
        ("csv needs --dataset_path", {"benchmark": "csv", "ratings_csv": "a.csv"}),
        ("not for --benchmark=synthetic", {"benchmark": "synthetic", "num_shards": 2}),
        ("compare needs --results_b", {"benchmark": "compare", "results_a": "a"}),
    ],
)
def test_flags_that_do_not_fit_are_refused(tmp_path, message, flags):
    paths = ("dataset_path", "ratings_csv", "results_a", "results_b")
    values = dict.fromkeys(paths) | {"output_dir": str(tmp_path), "num_shards": 1}
    values |= {"score_name": "realism", "shard_index": 0}
    refused(message, run_benchmark, values | flags, {})
