"""Every table of the first release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

TIME = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("detail", JSON, nullable=False),
        sa.Column("previous_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sa.UniqueConstraint("hash", name="uq_audit_hash"),
    )
    op.create_index("ix_audit_action", "audit", ["action"])
    op.create_table(
        "clinical_outcomes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("time_days", sa.Double(), nullable=True),
        sa.Column("event", sa.Boolean(), nullable=True),
        sa.Column("imported_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_clinical_outcomes"),
        sa.UniqueConstraint("subject", "name", name="uq_clinical_outcomes_subject_name"),
    )
    op.create_index("ix_clinical_outcomes_subject", "clinical_outcomes", ["subject"])
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("subject", sa.String(length=16), nullable=False),
        sa.Column("subject_id", sa.Integer(), nullable=False),
        sa.Column("before", sa.String(length=16), nullable=False),
        sa.Column("after", sa.String(length=16), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_subject_subject_id_id", "events", ["subject", "subject_id", "id"])
    op.create_table(
        "models",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("manifest", JSON, nullable=False),
        sa.Column("added_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_models"),
    )
    op.create_index("ix_models_name", "models", ["name"])
    op.create_table(
        "protocols",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("document", JSON, nullable=False),
        sa.Column("registered_at", TIME, nullable=False),
        sa.Column("first_outcome_access_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_protocols"),
        sa.UniqueConstraint("digest", name="uq_protocols_digest"),
    )
    op.create_index("ix_protocols_name", "protocols", ["name"])
    op.create_table(
        "quarantined",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("stored_sha256", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_quarantined"),
    )
    op.create_index("ix_quarantined_sop_instance_uid", "quarantined", ["sop_instance_uid"])
    op.create_table(
        "reference_readings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("site", sa.String(length=64), nullable=False),
        sa.Column("reader", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("adjudicated", sa.Boolean(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("unit", sa.String(length=32), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=255), nullable=False),
        sa.Column("imported_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_reference_readings"),
        sa.UniqueConstraint(
            "study_instance_uid", "reader", "kind", "label", "version", name="uq_reference_readings_reading"
        ),
    )
    op.create_index("ix_reference_readings_study_instance_uid", "reference_readings", ["study_instance_uid"])
    op.create_table(
        "study_versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("predecessor_id", sa.Integer(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("rule", sa.String(length=64), nullable=False),
        sa.Column("basis", sa.String(length=32), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("expected_instances", sa.Integer(), nullable=True),
        sa.Column("missing_uids", JSON, nullable=False),
        sa.Column("patient_id", sa.String(length=64), nullable=False),
        sa.Column("issuer_of_patient_id", sa.String(length=64), nullable=False),
        sa.Column("accession_number", sa.String(length=64), nullable=False),
        sa.Column("study_date", sa.String(length=8), nullable=False),
        sa.Column("study_description", sa.String(length=255), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("called_ae", sa.String(length=16), nullable=False),
        sa.Column("peer_address", sa.String(length=64), nullable=False),
        sa.Column("first_instance_at", TIME, nullable=False),
        sa.Column("last_instance_at", TIME, nullable=False),
        sa.Column("closed_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["predecessor_id"], ["study_versions.id"], name="fk_study_versions_predecessor_id_study_versions"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_study_versions"),
        sa.UniqueConstraint(
            "study_instance_uid", "version", name="uq_study_versions_study_instance_uid_version"
        ),
    )
    op.create_index("ix_study_versions_patient_id", "study_versions", ["patient_id"])
    op.create_index("ix_study_versions_state_id", "study_versions", ["state", "id"])
    op.create_index(
        "uq_study_versions_receiving",
        "study_versions",
        ["study_instance_uid"],
        unique=True,
        sqlite_where=sa.text("state = 'RECEIVING'"),
        postgresql_where=sa.text("state = 'RECEIVING'"),
    )
    op.create_table(
        "instances",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_version_id", sa.Integer(), nullable=False),
        sa.Column("modality", sa.String(length=16), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column("deleted_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["study_version_id"], ["study_versions.id"], name="fk_instances_study_version_id_study_versions"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
        sa.UniqueConstraint("sop_instance_uid", name="uq_instances_sop_instance_uid"),
    )
    op.create_index("ix_instances_study_version_id", "instances", ["study_version_id"])
    op.create_table(
        "offers",
        sa.Column("worker", sa.String(length=128), nullable=False),
        sa.Column("memory_mib", sa.Integer(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("worker", name="pk_offers"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_version_id", sa.Integer(), nullable=False),
        sa.Column("model_digest", sa.String(length=64), nullable=False),
        sa.Column("model_name", sa.String(length=128), nullable=False),
        sa.Column("recipe_digest", sa.String(length=64), nullable=False),
        sa.Column("destinations", JSON, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("window", sa.String(length=64), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("planned_peak_mib", sa.Integer(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("available_at", TIME, nullable=False),
        sa.Column("due_at", TIME, nullable=False),
        sa.Column("lease_owner", sa.String(length=128), nullable=False),
        sa.Column("lease_expires_at", TIME, nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("step", sa.String(length=64), nullable=False),
        sa.Column("error_class", sa.String(length=32), nullable=False),
        sa.Column("rule", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("first_started_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.Column("seconds", JSON, nullable=False),
        sa.Column("provenance", JSON, nullable=False),
        sa.ForeignKeyConstraint(["model_digest"], ["models.digest"], name="fk_jobs_model_digest_models"),
        sa.ForeignKeyConstraint(
            ["study_version_id"], ["study_versions.id"], name="fk_jobs_study_version_id_study_versions"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint(
            "study_version_id",
            "model_digest",
            "recipe_digest",
            name="uq_jobs_study_version_id_model_digest_recipe_digest",
        ),
    )
    op.create_index(
        "ix_jobs_claimable",
        "jobs",
        ["due_at", "id"],
        sqlite_where=sa.text("state IN ('QUEUED', 'WAITING')"),
        postgresql_where=sa.text("state IN ('QUEUED', 'WAITING')"),
    )
    op.create_index(
        "ix_jobs_ended_without_result",
        "jobs",
        ["state", "id"],
        sqlite_where=sa.text("state IN ('REFUSED', 'DEAD', 'CANCELLED', 'SUPERSEDED')"),
        postgresql_where=sa.text("state IN ('REFUSED', 'DEAD', 'CANCELLED', 'SUPERSEDED')"),
    )
    op.create_index(
        "ix_jobs_running",
        "jobs",
        ["model_digest"],
        sqlite_where=sa.text("state IN ('RUNNING')"),
        postgresql_where=sa.text("state IN ('RUNNING')"),
    )
    op.create_table(
        "series",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_version_id", sa.Integer(), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("modality", sa.String(length=16), nullable=False),
        sa.Column("description", sa.String(length=255), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("rule", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("acquisition", JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["study_version_id"], ["study_versions.id"], name="fk_series_study_version_id_study_versions"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_series"),
        sa.UniqueConstraint(
            "study_version_id",
            "series_instance_uid",
            "part",
            name="uq_series_study_version_id_series_instance_uid_part",
        ),
    )
    op.create_index("ix_series_study_version_id", "series", ["study_version_id"])
    op.create_table(
        "validation_runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("protocol_id", sa.Integer(), nullable=False),
        sa.Column("cohort_digest", sa.String(length=64), nullable=False),
        sa.Column("report_sha256", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["protocol_id"], ["protocols.id"], name="fk_validation_runs_protocol_id_protocols"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_validation_runs"),
    )
    op.create_index("ix_validation_runs_protocol_id", "validation_runs", ["protocol_id"])
    op.create_table(
        "measurements",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("roi", sa.Integer(), nullable=False),
        sa.Column("tracking_id", sa.String(length=64), nullable=False),
        sa.Column("tracking_uid", sa.String(length=64), nullable=False),
        sa.Column("concept_code", sa.String(length=64), nullable=False),
        sa.Column("concept_scheme", sa.String(length=32), nullable=False),
        sa.Column("concept_meaning", sa.String(length=128), nullable=False),
        sa.Column("unit", sa.String(length=32), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_measurements_job_id_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_measurements"),
        sa.UniqueConstraint(
            "job_id",
            "roi",
            "concept_scheme",
            "concept_code",
            name="uq_measurements_job_id_roi_concept_scheme_concept_code",
        ),
    )
    op.create_index("ix_measurements_job_id", "measurements", ["job_id"])
    op.create_table(
        "result_objects",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_result_objects_job_id_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_result_objects"),
        sa.UniqueConstraint("sop_instance_uid", name="uq_result_objects_sop_instance_uid"),
    )
    op.create_index("ix_result_objects_job_id", "result_objects", ["job_id"])
    op.create_index("ix_result_objects_study_instance_uid", "result_objects", ["study_instance_uid"])
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("result_object_id", sa.Integer(), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("available_at", TIME, nullable=False),
        sa.Column("lease_owner", sa.String(length=128), nullable=False),
        sa.Column("lease_expires_at", TIME, nullable=True),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("basis", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("sent_at", TIME, nullable=True),
        sa.Column("confirmed_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["result_object_id"], ["result_objects.id"], name="fk_deliveries_result_object_id_result_objects"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.UniqueConstraint(
            "result_object_id", "destination", name="uq_deliveries_result_object_id_destination"
        ),
    )
    op.create_index(
        "ix_deliveries_open",
        "deliveries",
        ["available_at", "id"],
        sqlite_where=sa.text("state IN ('PENDING', 'WAITING', 'SENT')"),
        postgresql_where=sa.text("state IN ('PENDING', 'WAITING', 'SENT')"),
    )
    op.create_index("ix_deliveries_result_object_id", "deliveries", ["result_object_id"])
    op.create_index(
        "ix_deliveries_stopped",
        "deliveries",
        ["state", "id"],
        sqlite_where=sa.text("state IN ('DEAD', 'CANCELLED')"),
        postgresql_where=sa.text("state IN ('DEAD', 'CANCELLED')"),
    )


def downgrade() -> None:
    op.drop_table("deliveries")
    op.drop_table("result_objects")
    op.drop_table("measurements")
    op.drop_table("validation_runs")
    op.drop_table("series")
    op.drop_table("jobs")
    op.drop_table("instances")
    op.drop_table("study_versions")
    op.drop_table("reference_readings")
    op.drop_table("quarantined")
    op.drop_table("protocols")
    op.drop_table("offers")
    op.drop_table("models")
    op.drop_table("events")
    op.drop_table("clinical_outcomes")
    op.drop_table("audit")
