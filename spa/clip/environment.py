"""What is usable here, and what would make the rest so (`inference.py --check`).

What has to be fetched is said with its size and its licence: CoTracker3 and the larger
networks of Video-Depth-Anything may not be used commercially.
"""

from spa.clip.availability import INSTALL, Row, missing_packages
from spa.clip.depth import DEPTHS
from spa.clip.features import FEATURES
from spa.clip.torch_models import pick_device
from spa.clip.tracking import TRACKERS
from spa.shipped import CHECKPOINT


def check(options=None) -> list[Row]:
    """Returns what is usable here with the front ends' options, which are attributes:
    rows in the order of a clip's way, from devices to depth."""
    front_ends = [
        row
        for table in (TRACKERS, FEATURES, DEPTHS)
        for module in table.values()
        for row in module.status(options)
    ]
    return [*_devices(), _shipped_checkpoint(), *front_ends]


def _devices():
    import jax

    devices = ", ".join(sorted({device.device_kind for device in jax.devices()}))
    note = f"{jax.__version__} on {jax.default_backend()} ({devices})"
    jax_row = Row("device", "jax", True, note)
    if missing_packages("torch"):
        note = "not installed: the front ends need it, the mini preset does not"
        return [jax_row, Row("device", "torch", False, note, (INSTALL,), "about 1 GB")]
    import torch

    note = f"{torch.__version__} on {pick_device()}"
    return [jax_row, Row("device", "torch", True, note)]


def _shipped_checkpoint():
    name = CHECKPOINT.stem
    if CHECKPOINT.exists():
        return Row("checkpoint", name, True, "comes with this repository")
    restore = ("git checkout -- checkpoints",)
    return Row("checkpoint", name, False, f"{CHECKPOINT} is not there", restore)


def table(rows: list[Row]) -> str:
    """Returns the rows for a person to read."""
    width = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        usable = "yes" if row.usable else "no"
        licence = f" [{row.licence}]" if row.licence else ""
        lines.append(
            f"{row.kind:<10}  {row.name:<{width}}  {usable:<3}  {row.note}{licence}"
        )
        if row.download and not row.usable:
            lines.append(f"{'':14}fetches {row.download}")
        lines += [f"{'':14}$ {command}" for command in row.commands]
    return "\n".join(lines)
