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
    """Something that may be usable here: its `kind` and name, a `note` on what it is or
    lacks, `commands` that make it usable, the size of their `download`, and its
    `licence` ("" if ours)."""

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
