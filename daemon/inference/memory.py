"""Know before allocating whether a prediction fits: refuse what never will, wait for what will later.

The peak of a window is the activations that are alive together at the worst layer, at the width that the
convolution kernels really store.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from voxtrial.daemon.errors import Refused, Retryable

MIB = 2**20
FLOAT_BYTES = 4
WORKSPACE_MIB = 64.0
"""What the kernels and the allocator take beside the activations."""
RESERVE = 0.9
"""Share of the available memory that a plan may fill."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What a prediction will take, MiB."""

    window_mib: float
    """Activations of the largest window."""
    volume_mib: float
    """Input, output and sums over the whole volume."""

    @property
    def peak_mib(self) -> float:
        """Both together."""
        return self.window_mib + self.volume_mib


def plan(
    *, window: Sequence[int], shape: Sequence[int], peak_channels: float, volume_channels: float
) -> MemoryPlan:
    """Return the plan for windows of ``window`` voxels over a volume of ``shape``.

    Parameters
    ----------
    peak_channels
        Full-resolution channels that the network holds at its worst moment.
    volume_channels
        Channels that are held for the whole volume: input, answers, weights of the blend.
    """
    return MemoryPlan(
        window_mib=math.prod(window) * peak_channels * FLOAT_BYTES / MIB + WORKSPACE_MIB,
        volume_mib=math.prod(shape) * volume_channels * FLOAT_BYTES / MIB,
    )


def machine_mib() -> tuple[float, float]:
    """Return (all, now available) memory, MiB: the machine's, or the container's where that is less."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kib = {words[0]: float(words[1]) for words in lines}
    total, available = kib["MemTotal:"] * 1024, kib["MemAvailable:"] * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and (bound := limit.read_text().strip()) != "max":
        total = min(total, float(bound))
        available = min(available, float(bound) - float(used.read_text()))
    return total / MIB, available / MIB


def admit(planned: MemoryPlan, limit_mib: float | None = None) -> None:
    """Return when the plan fits.

    Parameters
    ----------
    limit_mib
        What the prediction may take; None: what the machine has.

    Raises
    ------
    Refused
        It does not fit into the limit or the whole machine, rule ``memory``.
    Retryable
        It fits into the machine, but not into what is available now.
    """
    total, available = machine_mib() if limit_mib is None else (limit_mib, limit_mib)
    if planned.peak_mib > RESERVE * total:
        raise Refused(
            f"The prediction needs {planned.peak_mib:.0f} MiB, {RESERVE:.0%} of {total:.0f} MiB may be used; "
            "a model with smaller tiles is needed",
            rule="memory",
        )
    if planned.peak_mib > RESERVE * available:
        raise Retryable(
            f"The prediction needs {planned.peak_mib:.0f} MiB, {available:.0f} MiB are free at the moment"
        )
