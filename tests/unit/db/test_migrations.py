"""A database made by the migrations is the one that the tables describe, on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from voxtrial.db import audit, jobs, migrate, outcomes, results, studies
from voxtrial.db.base import Base
from voxtrial.db.engine import connect

TABLES = (audit.AuditRow, jobs.Job, outcomes.Protocol, results.Delivery, studies.StudyVersion)


def test_migrated_schema_equals_the_tables(database: Engine) -> None:
    assert all(issubclass(table, Base) for table in TABLES)
    with database.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_every_constraint_and_index_has_the_name_of_the_tables(database: Engine) -> None:
    """Alembic compares neither primary keys nor the condition of an index: read both from the database."""
    inspector = inspect(database)
    for table in Base.metadata.sorted_tables:
        assert inspector.get_pk_constraint(table.name)["name"] == f"pk_{table.name}"
        found = {
            index["name"]: index.get("dialect_options", {}) for index in inspector.get_indexes(table.name)
        }
        for index in table.indexes:
            condition = index.dialect_options[database.dialect.name]["where"]
            stored = found[index.name].get(f"{database.dialect.name}_where")
            assert (condition is None) == (stored is None), index.name


def test_down_to_base_leaves_no_table_and_up_again_works(database: Engine) -> None:
    migrate.downgrade(database, "base")
    assert set(inspect(database).get_table_names()) <= {"alembic_version"}
    migrate.upgrade(database)
    migrate.check(database)


def test_upgrade_of_an_upgraded_database_changes_nothing(database: Engine) -> None:
    before = migrate.current(database)
    migrate.upgrade(database)
    assert migrate.current(database) == before


def test_newer_schema_is_refused(database: Engine) -> None:
    with database.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for use in (migrate.check, migrate.upgrade):
        with pytest.raises(migrate.NewerSchema, match="9999"):
            use(database)


def test_empty_database_is_older_until_it_is_upgraded(empty_database_url: str) -> None:
    engine = connect(empty_database_url)
    with pytest.raises(migrate.OlderSchema, match="voxtrial db upgrade"):
        migrate.check(engine)
    migrate.upgrade(engine)
    migrate.check(engine)
    engine.dispose()
