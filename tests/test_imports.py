"""The layout holds: who may import whom, what the demo may load, where flags live.

Contents
    LIBRARY, SCRIPTS, DEMO      the modules, in the order in which they may import
    imports_of, third_party_of  what a file imports, read from its syntax tree
    run_python                  a fresh interpreter, with stand-ins for heavy packages
    tests                       order; scripts; demo path; flags; requirements

All of them look at the files that exist, so a module is covered as soon as it lands.
"""

import ast
import functools
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module imports only from those before it here.
LIBRARY = [
    "files",
    "video",
    "workers",
    "geometry",
    "attention",
    "scaffold",
    "track_autoencoder",
    "track_autoencoder_3d",
    "checkpointing",
    "scoring",
    "surprise",
    "surprise_training",
    "worlds",
    "synthetic",
    "corruptions",
    "datasets",
    "data_loader",
    "training",
    "torch_models",
    "tracking",
    "features",
    "depth",
    "environment",
    "semantic_points",
    "damages",
    "pipeline",
    "many_videos",
    "scoring_flags",
    "video_benchmarks",
    "offline_proof",
    "surprise_examples",
    "tapvid3d_evaluation",
    "visualize",
    "report_page",
    "interactive",
]
SCRIPTS = [
    "train",
    "fit_surprise",
    "inference",
    "evaluate_tapvid3d",
    "evaluate_benchmarks",
    "visualizer",
    "report",
]
# What a heavy package would slow down or break: the way of `make demo`, and training
# on simulated scenes.
DEMO = [
    "files",
    "video",
    "workers",
    "geometry",
    "attention",
    "scaffold",
    "track_autoencoder",
    "track_autoencoder_3d",
    "checkpointing",
    "scoring",
    "surprise",
    "surprise_training",
    "worlds",
    "synthetic",
    "corruptions",
    "datasets",
    "data_loader",
    "training",
    "torch_models",
    "tracking",
    "features",
    "depth",
    "environment",
    "semantic_points",
    "pipeline",
    "many_videos",
    "scoring_flags",
    "inference",
    "train",
]
HEAVY = ["torch", "tensorflow"]
MODULES = LIBRARY + SCRIPTS
PRESENT = [name for name in MODULES if (ROOT / f"{name}.py").exists()]


def present(names):
    return [name for name in names if name in PRESENT]


def _imported_names(nodes):
    """Top-level package of every absolute import among `nodes`."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


def _outside_functions(node):
    """Nodes that run when the module is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        yield child
        yield from _outside_functions(child)


def imports_of(path, at_import_only=False):
    """Packages that a file imports anywhere, or only those imported at its import."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return _imported_names(
        _outside_functions(tree) if at_import_only else ast.walk(tree)
    )


def third_party_of(name, at_import_only):
    own = set(MODULES) | {"tests", "benchmarks"}
    found = imports_of(ROOT / f"{name}.py", at_import_only)
    return found - own - set(sys.stdlib_module_names)


@pytest.fixture(scope="module")
def heavy_stand_ins(tmp_path_factory):
    """A folder of empty packages named like the heavy ones.

    With it on the path an import of one of them always works and is seen, also where
    the real one is not installed (or is, and a library would quietly take it).
    """
    folder = tmp_path_factory.mktemp("stand_ins")
    for name in HEAVY:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("")
    return folder


def run_python(code, *path):
    """The lines that `code` prints in a fresh interpreter started in the root."""
    env = dict(os.environ, JAX_PLATFORMS="cpu")
    env["PYTHONPATH"] = os.pathsep.join(map(str, (*path, ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_module_has_a_place_in_the_order():
    unknown = {path.stem for path in ROOT.glob("*.py")} - set(MODULES)
    assert not unknown, f"give {sorted(unknown)} a place in LIBRARY or SCRIPTS"


@pytest.mark.parametrize("name", PRESENT)
def test_module_imports_only_from_those_above_it(name):
    above = LIBRARY[: LIBRARY.index(name)] if name in LIBRARY else LIBRARY
    wrong = (imports_of(ROOT / f"{name}.py") & set(MODULES)) - set(above)
    assert not wrong, f"{name}.py may not import {sorted(wrong)}"


@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_nobody_imports_a_script(folder):
    importers = {
        path.name: sorted(imports_of(path) & set(SCRIPTS))
        for path in (ROOT / folder).glob("*.py")
    }
    assert not {name: found for name, found in importers.items() if found}


def test_demo_path_loads_no_heavy_package(heavy_stand_ins):
    names = present(DEMO)
    code = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(name)
    found = [heavy for heavy in {HEAVY} if heavy in sys.modules]
    if found:
        print(name + ":" + ",".join(found))
        break
"""
    loaded = run_python(code, heavy_stand_ins)
    assert not loaded, f"{loaded} (module:heavy packages there once it is imported)"


def test_a_heavy_package_would_be_seen(heavy_stand_ins):
    code = "import sys, torch, tensorflow; print(*sys.modules)"
    assert set(HEAVY) <= set(run_python(code, heavy_stand_ins))


def test_importing_the_library_defines_no_flags():
    names = present(LIBRARY)
    code = f"""
import importlib
from absl import flags
for name in {names}:
    importlib.import_module(name)
print(*flags.FLAGS.flags_by_module_dict())
"""
    guilty = set(run_python(code)) & set(names)
    assert not guilty, f"{sorted(guilty)} define absl flags when they are imported"


@functools.cache
def _distributions():
    return importlib.metadata.packages_distributions()


def required(*files):
    """Normalised names of the packages that requirement files list."""
    names = set()
    for file in files:
        for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
            match = re.match(r"[A-Za-z0-9][\w.-]*", line)
            if match:
                names.add(_normalised(match.group()))
    return names


def _normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def not_required(packages, *files):
    """The packages among `packages` that no line of `files` brings."""
    allowed = required(*files)
    return {
        package
        for package in packages
        if not {_normalised(d) for d in _distributions().get(package, [package])}
        & allowed
    }


@pytest.mark.parametrize("name", present(DEMO))
def test_mini_layer_brings_what_the_demo_imports(name):
    packages = third_party_of(name, at_import_only=True)
    missing = not_required(packages, "requirements-mini.txt")
    assert not missing, f"{name}.py imports {sorted(missing)}"


@pytest.mark.parametrize("name", PRESENT)
def test_requirements_bring_whatever_is_imported(name):
    packages = third_party_of(name, at_import_only=False)
    # What is no package on an index: cloned by who wants it.
    packages -= {"cotracker", "video_depth_anything", "tapnet"}
    missing = not_required(
        packages, "requirements-mini.txt", "requirements.txt", "requirements-tf.txt"
    )
    assert not missing, f"{name}.py imports {sorted(missing)}"
