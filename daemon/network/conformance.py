"""The DICOM conformance statement (PS3.2), written from the tables that the code negotiates with."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version

from pydicom.uid import UID, Comprehensive3DSRStorage, ExplicitVRLittleEndian, SegmentationStorage

from voxtrial.daemon.network import contexts, tls
from voxtrial.daemon.network.status import StoreStatus
from voxtrial.daemon.settings import Settings

CREATED_CLASSES: tuple[UID, ...] = (SegmentationStorage, Comprehensive3DSRStorage)
"""SOP classes of the objects that the daemon makes."""

_STATUS_TEXT = {
    StoreStatus.SUCCESS: "The bytes are on disk and the row is committed.",
    StoreStatus.SOP_CLASS_NOT_SUPPORTED: "The command names another SOP class than its context.",
    StoreStatus.OUT_OF_RESOURCES: "Disk below its watermark or full, or no database: try again.",
    StoreStatus.MISMATCH: "SOP class or instance UID of the data set differ from those of the command.",
    StoreStatus.UNPARSABLE: "The data set cannot be read to its end, or holds no valid UIDs.",
    StoreStatus.CONFLICT: "Another object is stored under this SOP Instance UID; both are kept apart.",
}

_STOW_STATUS = [
    ("200", "All instances are stored."),
    ("202", "Some are stored; the others are listed with their failure reasons."),
    ("400", "The body is damaged or empty, or the path names no study."),
    ("403", "The address may not store."),
    ("409", "No instance is stored; the failure reasons are listed."),
    ("415", "Another media type."),
    ("503", "Disk below its watermark or full, or no database: try again."),
]


def statement(settings: Settings) -> str:
    """Return the statement as Markdown for one configuration."""
    listener = settings.listener
    sections = [
        "# DICOM Conformance Statement\n",
        f"Voxtrial {version('voxtrial')}, site {settings.site.name}.\n",
        "## 1 Overview\n",
        "Voxtrial receives images, runs algorithms on them, and sends Segmentation and Comprehensive 3D SR "
        "objects. It acts as IHE AIR Evidence Creator.\n",
        _table(
            ("Service", "User (SCU)", "Provider (SCP)"),
            [
                ("Verification", "yes", "yes"),
                ("Storage", "yes: own objects", "yes"),
                ("Storage Commitment Push Model", "yes", "no"),
                ("Query/Retrieve, Study Root: FIND, GET, MOVE", "yes", "no"),
                ("Store transaction (STOW-RS, PS3.18 10.5)", "no", "yes"),
                ("Search and Retrieve transactions (QIDO-RS, WADO-RS)", "yes", "no"),
            ],
        ),
        "## 2 Application entity\n",
        _table(
            ("Parameter", "Value"),
            [
                ("AE title", listener.ae_title),
                ("Port", str(listener.port)),
                ("TLS port", str(listener.tls_port) if listener.tls_port else "not configured"),
                ("Maximum PDU announced", f"{listener.maximum_pdu} bytes"),
                ("Maximum associations a process", str(listener.maximum_associations)),
                ("Listener processes", str(listener.workers)),
                ("Idle time-out", f"{listener.idle_seconds:g} s"),
                (
                    "Accepted callers",
                    ", ".join(a.ae_title for a in listener.accept) or "all, on loopback only",
                ),
                ("Durability before success", listener.fsync),
            ],
        ),
        "## 3 Association acceptance\n",
        "Every SOP class below is accepted in every transfer syntax below, one context each; the first that "
        "the sender proposes is taken, and objects are kept as received.\n",
        "### 3.1 Storage SOP classes\n",
        _classes(contexts.STORAGE_CLASSES),
        "### 3.2 Transfer syntaxes\n",
        _classes(contexts.TRANSFER_SYNTAXES),
        "### 3.3 C-STORE status codes\n",
        _table(("Code", "Meaning"), [(f"{status.value:04X}", text) for status, text in _STATUS_TEXT.items()]),
        "### 3.4 STOW-RS\n",
        "Instances are stored at `/studies` and `/studies/{study}`, as "
        '`multipart/related; type="application/dicom"`, each part a PS3.10 file; the failure reasons are the '
        "status codes above.\n",
        _table(
            ("Parameter", "Value"),
            [
                ("Port", str(settings.web.port) if settings.web.enabled else "not served"),
                ("Scheme", "HTTPS, mutual authentication" if settings.web.tls else "HTTP"),
                ("Accepted callers", "loopback, and addresses of the accepted callers"),
            ],
        ),
        _table(("HTTP status", "Meaning"), _STOW_STATUS),
        "## 4 Association initiation\n",
        "Objects are sent in the transfer syntax in which they are stored "
        f"({UID(ExplicitVRLittleEndian).name}), else in Implicit VR Little Endian; each is a context of its "
        f"own, at most {contexts.MAXIMUM_PROPOSED} an association.\n",
        _classes(CREATED_CLASSES),
        "A delivery is confirmed by C-GET of the object and comparison, and by Storage Commitment where the "
        "destination offers it. Configured destinations:\n",
        _table(
            ("Name", "AE title", "Commitment", "Read-back"),
            [(d.name, d.ae_title, _yes(d.commitment), _yes(d.read_back)) for d in settings.destinations],
        ),
        "Whether a study is complete is asked by C-FIND at study, series and image level, or by QIDO-RS; "
        "missing instances are fetched by C-GET, C-MOVE, or WADO-RS in the transfer syntax in which they are "
        f"stored. Configured: {_query_peer(settings)}.\n",
        "## 5 Objects created\n",
        "Segmentation: BINARY, frames without a segment omitted, on the planes and in the frame of reference "
        "of the source series, one segment a finding with tracking UID and algorithm identification. "
        "Comprehensive 3D SR: TID 1500 with a TID 1411 group for each segment and a TID 1410 group for the "
        "outline on its key slice; an empty result is a TID 1501 group that says so. UIDs are 2.25 with 128 "
        "bits of SHA-256 over input, model, recipe and code version. Patient and study attributes are copied "
        "from the source.\n",
        "## 6 Character sets\n",
        "The Specific Character Set of the source is copied into every object made from it.\n",
        "## 7 Security\n",
        "TLS by BCP 195 (PS3.15 B.9 and later): version 1.2 or newer, mutual authentication, cipher suites "
        f"for TLS 1.2: {', '.join(tls.TLS_1_2_CIPHERS.split(':'))}.\n",
        "Every refused association, request and TLS handshake is a row of the audit trail with its reason; "
        "what a listener process refuses again for the same reason within a minute shares one, with its "
        "count. SOP classes that are proposed in vain beside others are such a row once for each sender.\n",
    ]
    return "\n".join(sections)


def _query_peer(settings: Settings) -> str:
    peer = settings.completeness.query
    if peer is None:
        return "none"
    return peer.url or f"{peer.ae_title}, {peer.retrieve}"


def _classes(uids: Iterable[UID | str]) -> str:
    return _table(("Name", "UID"), [(contexts.name_of(uid), str(uid)) for uid in uids])


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
