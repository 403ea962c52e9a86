"""One ``voxtrial.toml``; every field documented, every field overridable from the environment.

``VOXTRIAL_LISTENER__PORT=11113`` overrides ``[listener] port``. An unknown key is an error that names the
nearest known one. Secrets come from the environment or from files, never from the TOML.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from voxtrial.daemon.errors import Misconfigured

AETitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[^\\]*\S[^\\]*$")]
Port = Annotated[int, Field(ge=0, le=65535)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Site(_Section):
    """Who runs this daemon, and where it keeps what it owns."""

    name: str = Field("Site A", description="Name printed in reports and written into result objects.")
    data: Path = Field(Path("voxtrial-data"), description="Folder of spool, objects, models and keys.")


class Database(_Section):
    """The database that holds every state."""

    url: str = Field(
        "",
        description="SQLAlchemy URL; empty: SQLite below `site.data`. PostgreSQL: postgresql+psycopg://...",
    )


class Accept(_Section):
    """A peer that may associate."""

    ae_title: AETitle = Field(description="Calling AE title, exactly as the peer sends it.")
    host: str = Field("", description="Address or network (CIDR) that the peer connects from; empty: any.")


class TLS(_Section):
    """Certificates of one side of a TLS association (BCP 195 / RFC 9325)."""

    certificate: Path = Field(description="PEM certificate chain of this side.")
    key: Path = Field(description="PEM private key of this side.")
    ca: Path = Field(description="PEM certificates that the other side must be signed by.")


class Listener(_Section):
    """The Storage and Verification SCP."""

    host: str = Field("127.0.0.1", description="Address to listen on; loopback unless you say otherwise.")
    port: Port = Field(11112, description="TCP port; 0 takes a free one and prints it.")
    ae_title: AETitle = Field("VOXTRIAL", description="Called AE title that peers must use.")
    workers: int = Field(2, ge=1, le=64, description="Listener processes that accept on the one port.")
    fsync: Literal["file", "file+dir", "none"] = Field(
        "file", description="What is on disk before an instance is acknowledged."
    )
    accept: tuple[Accept, ...] = Field(
        (), description="Peers that may associate; empty: all, on loopback only."
    )
    maximum_associations: int = Field(
        100, ge=1, description="Associations served at the same time, per process."
    )
    maximum_pdu: int = Field(131072, ge=0, description="Largest PDU announced, bytes; 0: no limit.")
    idle_seconds: float = Field(
        60.0, gt=0, description="An association that stays silent this long is aborted."
    )
    watermark_mib: int = Field(
        512, ge=0, description="Free space below which instances are refused with A700."
    )
    tls_port: Port | None = Field(
        None, description="Second port for TLS (2762 by convention); absent: no TLS."
    )
    tls: TLS | None = Field(None, description="Certificates for `tls_port`; clients must present one too.")


class QuietRule(_Section):
    """A quiet period for some senders or modalities."""

    ae_title: str = Field("", description="Calling AE title that the rule is for; empty: any.")
    modality: str = Field("", description="Modality that the rule is for; empty: any.")
    quiet_seconds: float = Field(gt=0, description="Silence after which the study counts as complete.")


class QueryPeer(_Section):
    """The PACS that is asked which instances a study has: a DICOM node, or a DICOMweb URL."""

    url: str = Field(
        "", description="Base URL of the PACS's DICOMweb services, instead of host and AE title."
    )
    host: str = Field("", description="Address of the PACS.")
    port: Port = Field(104, description="DICOM port of the PACS.")
    ae_title: str = Field("", max_length=16, description="AE title of the PACS.")
    retrieve: Literal["move", "get", "none"] = Field(
        "get", description="How missing instances are fetched; by DICOMweb, get means WADO-RS."
    )
    tls: TLS | None = Field(None, description="Certificates for TLS to the PACS.")

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if bool(self.url) == bool(self.host and self.ae_title):
            raise ValueError("needs either url, or host, port and ae_title")
        if self.url and self.retrieve == "move":
            raise ValueError("cannot move by DICOMweb: retrieve is get or none")
        return self


class Completeness(_Section):
    """When a study is complete."""

    quiet_seconds: float = Field(
        60.0, gt=0, description="Silence after the last instance that closes a study."
    )
    cap_hours: float = Field(24.0, gt=0, description="A study still open after this is INCOMPLETE.")
    overrides: tuple[QuietRule, ...] = Field((), description="Other quiet periods, first match wins.")
    query: QueryPeer | None = Field(None, description="PACS whose counts decide CONFIRMED; absent: ASSUMED.")


class Destination(_Section):
    """A node that results are sent to."""

    name: str = Field(description="Name that routes and deliveries use.")
    kind: Literal["dicom"] = Field("dicom", description="Protocol: C-STORE.")
    host: str = Field("127.0.0.1", description="Address of the node.")
    port: Port = Field(description="Port of the node.")
    ae_title: AETitle = Field(description="AE title of the node.")
    commitment: bool = Field(True, description="Ask for storage commitment where the node offers it.")
    read_back: bool = Field(True, description="Fetch every object back and compare it before CONFIRMED.")
    tls: TLS | None = Field(None, description="Certificates for a TLS association to the node.")
    answer_seconds: float = Field(
        60.0, gt=0, description="How long the node may take to answer for one object; then it is sent again."
    )


class Condition(_Section):
    """Which studies a route is for; every given field must match."""

    modality: str = Field("", description="Modality that a series of the study must have.")
    calling_ae: str = Field("", description="AE title that the study came from.")
    study_description: str = Field(
        "", description="Regular expression found in StudyDescription, case ignored."
    )


class Route(_Section):
    """A model for some studies, and where its results go."""

    model: str = Field(description="Name of a model in the store; jobs record its digest.")
    when: Condition = Field(default_factory=Condition, description="Which studies the route is for.")
    destinations: tuple[str, ...] = Field((), description="Names of destinations; empty: keep results here.")
    priority: Literal["urgent", "routine", "batch"] = Field("routine", description="Order of claims.")
    window: str = Field(
        "", description="Cron expression of the hours in which jobs may start; empty: always."
    )
    concurrency: int = Field(
        0, ge=0, description="Jobs of this model at the same time; 0: no limit of its own."
    )
    gpus: int = Field(0, ge=0, description="GPUs that each job holds; it waits for a worker that has them.")


class Compute(_Section):
    """Who runs the jobs."""

    workers: int = Field(2, ge=0, description="Worker processes on this host; one job at a time each.")
    threads: int = Field(1, ge=1, description="Compute threads of each worker process.")
    cluster: str = Field("", description="Dask scheduler, tcp://host:8786; empty: processes on this host.")
    memory_mib: int = Field(
        0, ge=0, description="Memory that jobs may plan for in all; 0: what the host has free."
    )
    gpus: int = Field(0, ge=0, description="GPUs that jobs may hold in all, on this host or on the cluster.")
    timeout_seconds: float = Field(3600.0, gt=0, description="A job that runs longer is killed and retried.")
    lease_seconds: float = Field(30.0, gt=0, description="A worker silent this long has lost its job.")
    retry_seconds: float = Field(
        15.0, gt=0, description="Wait before the second attempt; it doubles with every further one."
    )
    longest_retry_seconds: float = Field(1800.0, gt=0, description="Longest wait between two attempts.")
    maximum_attempts: int = Field(5, ge=1, description="Attempts before a job is DEAD.")
    maximum_age_hours: float = Field(72.0, gt=0, description="Age after which a job is not retried any more.")


class Retention(_Section):
    """When received pixel data leave the disk; results and rows stay."""

    days: float = Field(
        0.0, ge=0, description="Age at which finished, confirmed studies are deleted; 0: keep for ever."
    )
    watermark_mib: int = Field(
        0, ge=0, description="Free space below which the oldest of them go first; 0: off."
    )


class Web(_Section):
    """The web server: DICOMweb STOW-RS."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(8080, description="TCP port; 0 takes a free one and prints it.")
    enabled: bool = Field(True, description="Whether `serve` starts the web server.")
    tls: TLS | None = Field(
        None, description="Certificates for HTTPS; clients must present one too. Absent: plain HTTP."
    )


class Settings(BaseSettings):
    """Everything a site decides."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="VOXTRIAL_", env_nested_delimiter="__"
    )

    site: Site = Field(default_factory=Site)
    database: Database = Field(default_factory=Database)
    listener: Listener = Field(default_factory=Listener)
    completeness: Completeness = Field(default_factory=Completeness)
    destinations: tuple[Destination, ...] = Field((), description="Nodes that results are sent to.")
    routes: tuple[Route, ...] = Field((), description="Models for studies.")
    compute: Compute = Field(default_factory=Compute)
    retention: Retention = Field(default_factory=Retention)
    web: Web = Field(default_factory=Web)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, which arrives as init arguments."""
        return env_settings, init_settings

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the database in use."""
        return self.database.url or f"sqlite:///{self.site.data / 'voxtrial.db'}"

    def destination(self, name: str) -> Destination:
        """Return the destination of that name.

        Raises
        ------
        Misconfigured
            No destination has this name.
        """
        for destination in self.destinations:
            if destination.name == name:
                return destination
        known = ", ".join(d.name for d in self.destinations) or "none"
        raise Misconfigured(
            f"No destination is named {name!r} (known: {known}); add a [[destinations]] entry."
        )


def load(path: Path | None = None) -> Settings:
    """Read the configuration.

    Parameters
    ----------
    path
        TOML file; None: the defaults, with what the environment overrides.

    Raises
    ------
    Misconfigured
        The file is missing, is no TOML, or holds a key or value that is not known; the message names it.
    """
    document: dict[str, Any] = {}
    if path is not None:
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise Misconfigured(f"Cannot read the configuration {path}: {error.strerror}.") from error
        except tomllib.TOMLDecodeError as error:
            raise Misconfigured(f"{path} is not valid TOML: {error}.") from error
    try:
        settings = Settings(**document)
    except ValidationError as error:
        raise Misconfigured(f"{path or 'The environment'}: {_first_problem(error)}") from error
    for route in settings.routes:
        for name in route.destinations:
            settings.destination(name)
    return settings


def _first_problem(error: ValidationError) -> str:
    found = error.errors()
    # A misspelt key also leaves its right name missing: say the first.
    problem = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"[{where}] {problem['msg']} (got {problem['input']!r})."
    unknown = str(problem["loc"][-1])
    nearest = difflib.get_close_matches(unknown, _known_keys(problem["loc"][:-1]), n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    return f"[{where}] is not a known key{hint}"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Return the field names of the section at ``location``."""
    model: type[BaseModel] = Settings
    for part in location:
        if isinstance(part, int):
            continue
        model = _section_of(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        section = _section_of(argument)
        if section is not None:
            return section
    return None
