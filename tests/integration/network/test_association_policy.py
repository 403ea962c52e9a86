"""Who may associate, and for what: every refusal is an audit row with its reason (TLS: ``test_tls.py``)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import peers
import pytest
from daemons import voxtrial
from pynetdicom import AE
from pynetdicom.presentation import build_context
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from wire import EXPLICIT_LITTLE_ENDIAN, VERIFICATION, Closed, Wire

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.network.policy import Policy
from voxtrial.daemon.network.refusals import Refusals
from voxtrial.daemon.network.scp import Listener
from voxtrial.db.audit import AuditRow, first_broken

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
ENDOSCOPY_STORAGE = "1.2.840.10008.5.1.4.1.1.77.1.1"
PRIVATE_CLASS = "1.2.826.0.1.3680043.8.498.99"
MPEG2 = "1.2.840.10008.1.2.4.100"
PERMANENT, TRANSIENT = 0x01, 0x02


def associate(listener: Listener, *, called: str = "VOXTRIAL", calling: str = "TEST") -> Any:
    """Ask for an association for C-ECHO, and return it, established or not."""
    return AE(ae_title=calling).associate(
        "127.0.0.1", listener.port, contexts=[build_context(VERIFICATION)], ae_title=called
    )


def audited(engine: Engine) -> list[tuple[str, str, str]]:
    """Return action, actor and reason of every audit row, whose chain is unbroken."""
    with Session(engine) as session:
        assert first_broken(session) is None
        rows = session.scalars(select(AuditRow).order_by(AuditRow.id)).all()
        assert {row.detail["peer"] for row in rows} <= {"127.0.0.1"}
        return [(row.action, row.actor, row.detail["reason"]) for row in rows]


def test_a_wrong_called_title_is_rejected(listener: Listener, engine: Engine) -> None:
    refused = associate(listener, called="OTHER")
    assert refused.acceptor.primitive.result == PERMANENT
    assert audited(engine) == [("association refused", "TEST", "called AE title 'OTHER' is not 'VOXTRIAL'")]


@pytest.mark.parametrize(
    "accept",
    [
        {"ae_title": "CT1"},
        {"ae_title": "CT1", "host": "127.0.0.0/8"},
        {"ae_title": "CT1", "host": "127.0.0.1"},
    ],
)
def test_a_known_title_from_its_address_is_welcome(
    serve: Callable[..., Listener], engine: Engine, accept: dict[str, str]
) -> None:
    association = associate(serve(accept=[accept]), calling="CT1")
    assert association.is_established
    association.release()
    assert audited(engine) == []


@pytest.mark.parametrize(
    "accept",
    [
        pytest.param({"ae_title": "CT2"}, id="unknown calling title"),
        pytest.param({"ae_title": "ct1"}, id="title in another case"),
        pytest.param({"ae_title": "CT1", "host": "10.0.0.0/8"}, id="known title from another address"),
    ],
)
def test_an_unknown_caller_or_address_is_rejected(
    serve: Callable[..., Listener], engine: Engine, accept: dict[str, str]
) -> None:
    refused = associate(serve(accept=[accept]), calling="CT1")
    assert refused.acceptor.primitive.result == PERMANENT
    reason = "calling AE title 'CT1' from 127.0.0.1 is not in listener.accept"
    assert audited(engine) == [("association refused", "CT1", reason)]


def test_more_associations_than_allowed_are_told_to_come_later(
    serve: Callable[..., Listener], engine: Engine
) -> None:
    listener = serve(maximum_associations=2)
    held = [associate(listener) for _ in range(3)]
    assert [a.is_established for a in held] == [True, True, False]
    assert held[2].acceptor.primitive.result == TRANSIENT
    assert audited(engine) == [("association refused", "TEST", "2 associations are open, the maximum")]
    held[0].release()
    peers.wait_until(lambda: _comes_and_goes(listener), 5, "a free place")
    held[1].release()


def _comes_and_goes(listener: Listener) -> bool:
    association = associate(listener)
    established = bool(association.is_established)
    if established:
        association.release()
    return established


def test_an_association_for_nothing_that_we_take_is_refused_in_the_audit_each_time(
    listener: Listener, engine: Engine
) -> None:
    """Equal refusals within a minute share a row, which the end of the listener writes as well."""
    for _ in range(3):
        association = AE(ae_title="SCOPE").associate(
            "127.0.0.1", listener.port, contexts=[build_context(ENDOSCOPY_STORAGE)], ae_title="VOXTRIAL"
        )
        assert association.is_aborted or not association.accepted_contexts
        association.abort()
    reason = "nothing accepted: VL Endoscopic Image Storage"
    assert audited(engine) == [("association refused", "SCOPE", reason)]
    listener.stop()
    assert audited(engine)[1:] == [("association refused", "SCOPE", f"{reason} (2 times more)")]


def test_a_flood_of_refusals_loses_no_fact_and_does_not_fill_the_disk(
    serve: Callable[..., Listener], engine: Engine
) -> None:
    listener = serve(accept=[{"ae_title": "CT1"}])
    for calling in ["NOBODY"] * 50 + ["SOMEBODY"]:
        with Wire(listener.port) as wire, suppress(Closed):
            wire.associate(calling=calling)
    listener.stop()
    with Session(engine) as session:
        rows = session.scalars(select(AuditRow)).all()
    assert [(row.actor, row.detail["times"]) for row in rows] == [
        ("NOBODY", 1),
        ("SOMEBODY", 1),
        ("NOBODY", 49),
    ]


@pytest.mark.parametrize("fails", [(Policy, "rejection"), (Refusals, "tell")], ids=["judged", "audited"])
def test_who_cannot_be_judged_is_turned_away(
    serve: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch, fails: tuple[type, str]
) -> None:
    """pynetdicom logs what the handler of a request raises, and accepts."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    listener = serve(accept=[{"ae_title": "CT1"}])
    with monkeypatch.context() as patch:
        patch.setattr(*fails, broken)
        with Wire(listener.port) as stranger, pytest.raises(Closed):
            stranger.associate(calling="NOBODY")
    with Wire(listener.port) as wire:
        assert wire.associate(calling="CT1").echo() == 0


def test_classes_and_syntaxes_that_we_do_not_take_are_audited_once_a_caller(
    listener: Listener, engine: Engine
) -> None:
    """The sender goes on with what is accepted; an administrator sees why some objects never come."""
    proposed = (
        (CT_IMAGE_STORAGE, EXPLICIT_LITTLE_ENDIAN),
        (PRIVATE_CLASS, EXPLICIT_LITTLE_ENDIAN),
        (VERIFICATION, MPEG2),
    )
    for calling in ("CT1", "CT1", "CT2"):
        with Wire(listener.port).associate(*proposed, calling=calling) as wire:
            wire.release()
    rows = audited(engine)
    assert [(action, actor) for action, actor, _ in rows] == [
        ("presentation contexts refused", "CT1"),
        ("presentation contexts refused", "CT2"),
    ]
    assert all(
        PRIVATE_CLASS in reason and "Verification SOP Class in MPEG2" in reason for _, _, reason in rows
    )
    assert not any("CT Image" in reason for _, _, reason in rows)


@pytest.mark.peer("dcmtk")
def test_storescu_with_every_class_that_it_knows_is_served(
    listener: Listener, engine: Engine, ct: list[Path]
) -> None:
    peers.storescu(ct[:1], listener.port)
    assert all(action == "presentation contexts refused" for action, _, _ in audited(engine))


def test_a_rejected_peer_learns_nothing_but_the_reason(serve: Callable[..., Listener]) -> None:
    listener = serve(accept=[{"ae_title": "CT1"}])
    with Wire(listener.port) as wire, pytest.raises(Closed, match="PDU 03 00010103"):
        wire.associate(calling="STRANGER")


def test_an_administrator_reads_who_was_refused_and_why(listener: Listener) -> None:
    associate(listener, called="OTHER", calling="CT7")
    configuration = listener.settings.site.data / "voxtrial.toml"
    configuration.write_text(f'[site]\ndata = "{listener.settings.site.data}"\n')
    done = voxtrial("audit", "list", "--action", "refused", "--config", str(configuration))
    row = done.stdout.splitlines()[-1]
    assert "CT7" in row
    assert "127.0.0.1" in row
    assert "called AE title 'OTHER' is not 'VOXTRIAL'" in row
    nothing = voxtrial("audit", "list", "--action", "committed", "--config", str(configuration))
    assert "CT7" not in nothing.stdout


def test_a_host_that_is_no_network_is_a_configuration_error(serve: Callable[..., Listener]) -> None:
    with pytest.raises(Misconfigured, match="neither an address nor a network"):
        serve(accept=[{"ae_title": "CT1", "host": "ct1.example.org"}])
