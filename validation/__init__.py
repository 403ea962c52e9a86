"""Statistics over stored outcomes, a locked protocol, and the report that a regulator can check."""
