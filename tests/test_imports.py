"""The layout holds: which room may import which, what the demo loads, where flags live.

All of it is read from the files that exist: a module is covered as soon as it lands.
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
# Rooms of the package, in order: a module imports from its own room, from those before
# it, and from what lies in spa/ itself. Only flags.py there, which turns options into
# flags, and command.py, a command, may look further up.
ROOMS = ["clip", "simulation", "data", "model", "realism", "evaluation", "view"]
# At the top: what the package itself imports of it, which is the published model,
MODEL_FILES = ["attention", "track_autoencoder", "track_autoencoder_3d"]
# published modules that others import, and commands, which nobody imports.
COMMANDS = (
    "train inference evaluate_tapvid3d evaluate_benchmarks visualizer "
    "report semantic_points"
).split()
# Packages beside spa may take from these rooms, and from what lies in spa/ itself.
OPEN_TO_PACKAGES = ["clip", "simulation", "data", "view"]
PACKAGES = ["stereo4d", "patch_ordering", "viewpoint"]
HEAVY = ["torch", "tensorflow"]
TOP = sorted(path.stem for path in ROOT.glob("*.py"))
SPA = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("spa/**/*.py"))


def dotted(path):
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def outside_functions(node):
    """Nodes that run when the module is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        yield child
        yield from outside_functions(child)


@functools.cache
def imports_of(path, at_import_only=False):
    """Dotted names of every absolute import of a file, what is taken included."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=path)
    names = set()
    for node in outside_functions(tree) if at_import_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(name):
    """The room of a dotted name; "" for what lies in spa/ itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""


@pytest.mark.parametrize("path", SPA)
def test_a_module_imports_from_its_room_and_those_before(path):
    own = room_of(dotted(path))
    allowed = ROOMS[: ROOMS.index(own) + 1] if own else []
    if path in ("spa/command.py", "spa/flags.py"):
        allowed = ROOMS
    theirs = {n for n in imports_of(path) if n.split(".")[0] == "spa" and room_of(n)}
    wrong = sorted(name for name in theirs if room_of(name) not in allowed)
    assert not wrong, f"{path} may not import {wrong}"


@pytest.mark.parametrize("path", SPA)
def test_the_package_imports_only_the_model_from_the_top(path):
    found = {name.split(".")[0] for name in imports_of(path)} & set(TOP)
    allowed = MODEL_FILES if room_of(dotted(path)) in ROOMS[3:] else []
    assert found <= set(allowed), f"{path} imports {sorted(found)} from the top"


@pytest.mark.parametrize("folder", [p for p in PACKAGES if (ROOT / p).is_dir()])
def test_packages_beside_take_nothing_of_realism_or_evaluation(folder):
    for path in ROOT.glob(f"{folder}/**/*.py"):
        name = path.relative_to(ROOT).as_posix()
        rooms = {room_of(n) for n in imports_of(name) if n.split(".")[0] == "spa"}
        assert rooms <= {"", *OPEN_TO_PACKAGES}, f"{name} imports from {sorted(rooms)}"


@pytest.mark.parametrize("folder", [".", "spa", "tests", "benchmarks"])
def test_nobody_imports_a_command(folder):
    files = ROOT.glob("*.py") if folder == "." else (ROOT / folder).glob("**/*.py")
    for path in files:
        found = imports_of(path.relative_to(ROOT).as_posix())
        commands = {name.split(".")[0] for name in found} & set(COMMANDS)
        assert not commands, f"{path} imports {sorted(commands)}"


def run_python(code, *path):
    """The lines that `code` prints in a fresh interpreter started in the root."""
    env = dict(os.environ, JAX_PLATFORMS="cpu")
    env["PYTHONPATH"] = os.pathsep.join(map(str, (*path, ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_no_module_loads_a_heavy_package(tmp_path):
    """Stand-ins for them are on the path, so that an import of one always works and is
    seen, also where the real one is not installed, which a library would notice."""
    for name in HEAVY:
        (tmp_path / f"{name}.py").touch()
    names = [*TOP, *map(dotted, SPA)]
    code = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(name)
    found = [heavy for heavy in {HEAVY} if heavy in sys.modules]
    if found:
        print(name + ":" + ",".join(found))
        break
"""
    loaded = run_python(code, tmp_path)
    assert not loaded, f"{loaded} (module:heavy packages there once it is imported)"
    code = f"import sys, {', '.join(HEAVY)}; print(*sys.modules)"
    assert set(HEAVY) <= set(run_python(code, tmp_path))


def test_importing_the_library_defines_no_flags():
    names = [*map(dotted, SPA), *(name for name in TOP if name not in COMMANDS)]
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


def _normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def not_required(packages, *files):
    """The packages among `packages` that no line of `files` brings."""
    lines = "\n".join((ROOT / file).read_text(encoding="utf-8") for file in files)
    listed = re.findall(r"^[A-Za-z0-9][\w.-]*", lines, re.MULTILINE)
    allowed = set(map(_normalised, listed))
    return {
        package
        for package in packages
        if allowed.isdisjoint(
            map(_normalised, _distributions().get(package, [package]))
        )
    }


@pytest.mark.parametrize("path", [*(f"{name}.py" for name in TOP), *SPA])
@pytest.mark.parametrize("layers", [["mini"], ["mini", "full", "tf"]])
def test_requirements_bring_what_is_imported(path, layers):
    """Those of the mini layer what is imported at once, all of them the rest."""
    imports = imports_of(path, at_import_only=layers == ["mini"])
    packages = {name.split(".")[0] for name in imports}
    packages -= {*TOP, *PACKAGES, "spa", "tests", "benchmarks"}
    packages -= set(sys.stdlib_module_names)
    # What is no package on an index: cloned by who wants it.
    packages -= {"cotracker", "video_depth_anything", "tapnet"}
    missing = not_required(packages, *(f"requirements-{x}.txt" for x in layers))
    assert not missing, f"{path} imports {sorted(missing)}"
