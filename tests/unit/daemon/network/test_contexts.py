"""The tables that associations are negotiated from."""

from __future__ import annotations

from pynetdicom.presentation import build_context

from voxtrial.daemon.network import contexts


def test_one_association_can_ask_for_every_storage_class() -> None:
    assert len(contexts.STORAGE_CLASSES) + 1 <= contexts.MAXIMUM_PROPOSED  # and the C-GET itself


def test_no_class_and_no_syntax_is_listed_twice() -> None:
    assert len(set(contexts.STORAGE_CLASSES)) == len(contexts.STORAGE_CLASSES)
    assert len(set(contexts.TRANSFER_SYNTAXES)) == len(contexts.TRANSFER_SYNTAXES)


def test_every_class_has_a_name() -> None:
    assert all(contexts.name_of(uid) != uid for uid in contexts.STORAGE_CLASSES if "66.7" not in uid)


def test_what_is_proposed_in_vain_is_named() -> None:
    supported = contexts.acceptable()
    proposed = [
        build_context("1.2.840.10008.5.1.4.1.1.2", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.4.100"]),
        build_context("1.2.840.10008.5.1.4.1.1.4", ["1.2.840.10008.1.2.4.100"]),
        build_context("1.2.3.4"),
    ]
    chosen = contexts.as_requested(proposed, supported)
    assert [str(c.abstract_syntax) for c in chosen] == ["1.2.840.10008.5.1.4.1.1.2"]
    mr, unknown = contexts.not_taken(proposed, chosen, supported)
    assert mr == "MR Image Storage in MPEG2 Main Profile / Main Level"
    assert unknown == "1.2.3.4"
