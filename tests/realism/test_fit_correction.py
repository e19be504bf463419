"""benchmarks/fit_correction.py: the shipped corrections are what it fits."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from spa.realism import surprise_examples, surprise_training
from spa.realism.options import make_options
from spa.realism.scorer import load_checkpoint, load_heads

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    before = list(sys.path)
    path = ROOT / "benchmarks" / "fit_correction.py"
    spec = importlib.util.spec_from_file_location("fit_correction", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.fixture(scope="module")
def table(script):
    return script.Table(script.TABLE)


def test_shipped_corrections_are_what_it_fits(script, table):
    """Lines are as they were, so that what is fitted to them can be fitted anew."""
    options = make_options("mini")
    checkpoint = load_checkpoint(None, options)
    shipped = load_heads(checkpoint, leave_one_out=True)
    lines = {
        name: dataclasses.replace(head, correction=None)
        for name, head in shipped.items()
    }
    fit = script.Fit(table, lines)
    for source in surprise_training.SOURCES:
        for kind in (None, *surprise_examples.KINDS):
            found = fit.head(source, kind)
            head = shipped[surprise_training.head_name(source, kind)]
            for name in ("mean", "deviation", "weights", "usual", "most", "spread"):
                one, other = (getattr(x.correction, name) for x in (found, head))
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
            if kind is None:
                np.testing.assert_allclose(found.usual, head.usual, atol=1e-4)
                assert found.spread == pytest.approx(head.spread, abs=1e-4)


def test_heads_of_another_version_are_refused(script, tmp_path):
    with pytest.raises(SystemExit, match="is missing: see the top"):
        script.old_heads(tmp_path)
    with pytest.raises(SystemExit, match="need heads of version 4"):
        script.old_heads(ROOT / "checkpoints")
