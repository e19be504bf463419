"""Arrays of .pt files, read without unpickling code."""

import os
import re
import zipfile
from collections.abc import Mapping

import numpy as np

from spa.errors import UserError, first_line
from spa.files import BAD_FILE
from spa.npz import MAX_BYTES

ENDINGS = (".pt", ".pth")


def read_torch(
    path: str | os.PathLike, max_bytes: int = MAX_BYTES
) -> dict[str, np.ndarray]:
    """Returns the tensors of a file of torch.save by name: a dict's, or (tracks,
    visibility) as CoTracker returns them, named as it names them; never more than the
    file holds. Raises UserError, naming it, for any other."""
    _check_zip(path, max_bytes)
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} is read by torch, which is not installed: pip install torch, or "
            "store its arrays with np.savez"
        ) from error
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows in many ways
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"a {found[1]}" if found else first_line(error)[:200]
        raise UserError(
            f"{path} holds more than tensors, or is damaged ({what}): save a dict of "
            "tensors with torch.save, or arrays with np.savez"
        ) from error
    if isinstance(stored, list | tuple) and len(stored) == 2:
        stored = dict(zip(("pred_tracks", "pred_visibility"), stored, strict=True))
    if not isinstance(stored, Mapping):
        raise UserError(
            f"{path} holds a {type(stored).__name__}, need a dict of tensors, or "
            "(tracks, visibility)"
        )
    arrays = {str(name): _array(path, name, x) for name, x in stored.items()}
    return {name: array for name, array in arrays.items() if array is not None}


def _check_zip(path, max_bytes):
    """Refuses what would grow while it is read: torch itself stores, not deflates."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except BAD_FILE as error:
        raise UserError(
            f"{path} is no file of torch.save that can be read ({first_line(error)}); "
            "files of torch before 1.6 are to be saved again"
        ) from error
    if any(x.compress_type or x.file_size != x.compress_size for x in entries):
        raise UserError(f"{path} is deflated, as torch.save stores no file")
    total = sum(entry.file_size for entry in entries)
    if total > max_bytes:
        raise UserError(
            f"{path} is {total:,} bytes, and at most {max_bytes:,} are read: leave out "
            "what is not needed, or give a larger max_bytes"
        )


def _array(path, name, value):
    """Returns a tensor or number as an array, None for anything else."""
    import torch

    if not isinstance(value, torch.Tensor):
        return np.asarray(value) if isinstance(value, bool | int | float) else None
    num_bytes = value.numel() * value.element_size()
    if value.layout != torch.strided or num_bytes > value.untyped_storage().nbytes():
        raise UserError(f"{path}: {name} is larger than what is stored of it")
    if value.dtype == torch.bfloat16:
        value = value.float()
    try:
        return value.detach().resolve_conj().numpy()
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{path}: {name} is {value.dtype}, need numbers") from error
