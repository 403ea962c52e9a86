"""Alembic environment: ``script_location = voxtrial.db:migrations``."""
