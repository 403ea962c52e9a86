"""Errors are decisions: what happens next follows from the class alone.

VoxtrialError
├── Refused       this input is not for us; the study or job ends here, with the rule and the value
├── Retryable     the world may improve; try again later with backoff
└── Fatal         a person must look; the work becomes a dead letter
    └── Misconfigured   the configuration is wrong; says which key and what to write instead
"""

from __future__ import annotations


class VoxtrialError(Exception):
    """Base of every error that Voxtrial raises on purpose."""


class Refused(VoxtrialError):
    """Input that is not for us.

    Parameters
    ----------
    message
        One sentence with the rule and the value, e.g. "Slice spacing varies from 2.5 to 5.0 mm; this recipe
        accepts 1 %".
    rule
        Short stable name of the rule that refused, e.g. ``irregular_spacing``: reports count by it.
    """

    def __init__(self, message: str, *, rule: str) -> None:
        super().__init__(message)
        self.rule = rule

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the way back from a worker process, keyword argument included."""
        return (_rebuild_refused, (str(self), self.rule))


def _rebuild_refused(message: str, rule: str) -> Refused:
    return Refused(message, rule=rule)


class Retryable(VoxtrialError):
    """The world may improve: a peer that is down, a full disk, a database that is locked."""


class Fatal(VoxtrialError):
    """A person must look: the same input will fail again."""


class Misconfigured(Fatal):
    """The configuration cannot be used; the message names the key and the remedy."""
