"""Events with fields, one JSON object a line on standard error; no patient identifier in any of them."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """Time, level, logger, message and the fields that the event carries."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON."""
        event: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name.removeprefix("voxtrial."),
            "event": record.getMessage(),
        }
        event |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            event["error"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str, ensure_ascii=False)


def configure(level: int = logging.INFO) -> None:
    """Send the events of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("pynetdicom", "pydicom", "matplotlib", "numba", "fontTools"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # The scheduler's own listener says the same with the name of the duty.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
