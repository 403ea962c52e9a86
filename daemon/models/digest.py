"""The name that jobs know a model by: SHA-256 over what it says and what it weighs.

The manifest enters as canonical JSON of what ``model.toml`` says, so comments, order and layout do not
matter, and every value does. A card or a licence text beside it does not enter: it changes no number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.models.manifest import Input, parse, read_toml


def canonical_json(value: Any) -> bytes:
    """Encode JSON values in the one way that digests are taken of: sorted keys, no blanks, UTF-8."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_digest(folder: Path) -> str:
    """Return the digest of the model in ``folder``: manifest and weights, 64 hex digits.

    Raises
    ------
    Misconfigured
        The folder holds no valid manifest, or the weights that it names are missing.
    """
    content = read_toml(folder)
    weights = parse(content, where=str(folder)).engine.weights
    files = {}
    if weights:
        if not (folder / weights).is_file():
            raise Misconfigured(f"{folder}: the weights {weights} that model.toml names are missing")
        files[weights] = file_sha256(folder / weights)
    return hashlib.sha256(canonical_json({"manifest": content, "files": files})).hexdigest()


def recipe_digest(inputs: Sequence[Input]) -> str:
    """Return the digest of how the inputs are made comparable: every step by role, 64 hex digits."""
    return hashlib.sha256(canonical_json({one.role: one.harmonization.digest for one in inputs})).hexdigest()
