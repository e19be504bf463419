"""The weights that come along."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent
FOLDER = _HERE / "checkpoints"  # as pyproject.toml puts them into a wheel
if not FOLDER.is_dir():
    FOLDER = _HERE.parent / "checkpoints"  # a clone
CHECKPOINT = FOLDER / "3dspa_mini.npz"
