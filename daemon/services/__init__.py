"""Periodic duties, one per file, each with ``run_once()``."""
