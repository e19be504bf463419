"""Progress bars of what goes through a clip frame by frame."""

from tqdm import tqdm

SECONDS_BEFORE_BAR = 1.0


def progress_bar(frames=None, *, name: str, total: int, shown: bool = True) -> tqdm:
    """Returns a bar that appears after a second, and in terminals only: not in logs."""
    return tqdm(
        frames,
        desc=name,
        total=total,
        unit="frame",
        delay=SECONDS_BEFORE_BAR,
        leave=False,
        disable=None if shown else True,
    )
