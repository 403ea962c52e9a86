"""A peer that is missing skips its tests on a desk and fails them in CI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
OF_DASK = "integration/test_cluster.py::test_cluster_that_does_not_answer_is_named"


@pytest.mark.parametrize(("required", "outcome"), [("0", "1 skipped"), ("1", "1 error")])
def test_missing_package_of_an_extra_is_a_failure_where_peers_are_required(
    tmp_path: Path, required: str, outcome: str
) -> None:
    (tmp_path / "without_dask.py").write_text("import sys\nsys.modules['distributed'] = None\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "without_dask",
            "-p",
            "no:cacheprovider",
            TESTS / OF_DASK,
        ],
        env={**os.environ, "VOXTRIAL_REQUIRE_PEERS": required, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome in done.stdout
    assert "PEER MISSING: dask" in done.stdout
    assert (done.returncode == 0) == (required == "0")
