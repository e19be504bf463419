"""What is usable here, and what would make the rest so: rows of `inference.py --check`.

Nothing is loaded or fetched, and nothing is asked of the network.
"""

import importlib.util
from dataclasses import dataclass

NON_COMMERCIAL = "CC-BY-NC-4.0 (non-commercial)"
APACHE = "Apache-2.0"
INSTALL = "pip install -r requirements.txt"


@dataclass(frozen=True)
class Row:
    """Something that may be usable here.

    Attributes:
        kind: "device", "checkpoint", "tracker", "features" or "depth".
        name: as it is asked for.
        usable: whether it is.
        note: what it is, or what lacks.
        commands: what makes it usable, in order; none if it is.
        download: what that fetches, "" if nothing.
        licence: of what is fetched or would be, "" if it is ours.
    """

    kind: str
    name: str
    usable: bool
    note: str
    commands: tuple[str, ...] = ()
    download: str = ""
    licence: str = ""


def missing_packages(*names: str) -> list[str]:
    """Returns those packages that are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]
