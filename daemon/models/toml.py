"""Write values the way TOML reads them back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def inline(value: Any) -> str:
    """Return ``value`` (mappings, sequences, strings, numbers, booleans) as TOML on one line.

    Examples
    --------
    >>> inline({"step": "window", "to": [0.0, 1.0]})
    '{ step = "window", to = [0.0, 1.0] }'
    """
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {inline(one)}" for key, one in value.items()) + " }"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(inline(one) for one in value) + "]"
    return json.dumps(value, ensure_ascii=False)  # the two agree on strings, numbers and booleans


def lines(values: Sequence[Any]) -> str:
    """Return ``values`` as the elements of a TOML array, one on a line."""
    return "\n".join(f"  {inline(one)}," for one in values)
