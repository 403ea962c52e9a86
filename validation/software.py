"""The versions of the programs that a report was computed with."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import version


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python, of Voxtrial and of the installed ``packages``, by name."""
    return {
        "python": platform.python_version(),
        "voxtrial": version("voxtrial"),
        **{name: version(name) for name in packages},
    }
