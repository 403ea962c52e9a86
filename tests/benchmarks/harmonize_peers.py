"""Peers that live in an environment of their own: MONAI, TorchIO, neuroCombat.

Run by that environment's interpreter with a folder that holds the inputs as .npy. Reads one name a line,
runs it on one thread, writes the result beside the inputs and answers with the seconds of CPU as JSON.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()


def given(name: str) -> np.ndarray:
    return np.load(FOLDER / f"{name}.npy")


def monai_zscore() -> Callable[[], Any]:
    from monai.transforms import NormalizeIntensity

    image, transform = given("head")[None], NormalizeIntensity(nonzero=True)
    return lambda: np.asarray(transform(image))[0]


def torchio_nyul() -> Callable[[], Any]:
    import torch
    from torchio.transforms.preprocessing.intensity import histogram_standardization

    image, landmarks = torch.from_numpy(given("head"))[None], given("landmarks")
    mask = (given("head") > 0)[None]
    # The computation alone: the public transform copies the subject first.
    normalize = histogram_standardization._normalize
    return lambda: normalize(image, landmarks, mask).numpy()[0]


def neurocombat() -> Callable[[], Any]:
    import pandas as pd
    from neuroCombat import neuroCombat

    values, batch, age = given("features"), given("batch"), given("age")
    table = pd.DataFrame({"batch": batch, "age": age})

    def run() -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            return neuroCombat(values.T, table, "batch", continuous_cols=["age"])["data"].T

    return run


PEERS = {"monai": monai_zscore, "torchio": torchio_nyul, "neuroCombat": neurocombat}


def main() -> None:
    runs: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        name = line.strip()
        try:
            if name not in runs:
                import torch

                torch.set_num_threads(1)
                runs[name] = PEERS[name]()
                np.save(FOLDER / f"{name}_result.npy", runs[name]())
            begin = time.process_time()
            runs[name]()
            answer: dict[str, Any] = {
                "seconds": time.process_time() - begin,
                "version": importlib.metadata.version(name),
            }
        except Exception as error:  # an absent or broken peer is reported, not hidden
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
