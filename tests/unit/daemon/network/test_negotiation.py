"""Requests that are remembered: what pynetdicom decodes, once for all associations that repeat the bytes."""

from __future__ import annotations

import pytest
from pynetdicom import build_context
from pynetdicom.dul import _PDU_TYPES
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)

from voxtrial.daemon.network.negotiation import (
    ASSOCIATE_REQUEST,
    LONGEST_REMEMBERED,
    REMEMBERED,
    REQUEST_RECEIVED,
    Answers,
    KnownAnswer,
    is_remembered,
    known_request,
)


def request(calling: str = "CT1") -> bytes:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = calling, "VOXTRIAL"
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = 16384
    implementation.implementation_class_uid = "1.2.3"
    primitive.user_information = [length, implementation]
    context = build_context("1.2.840.10008.5.1.4.1.1.2")
    context.context_id = 1
    primitive.presentation_context_definition_list = [context]
    return bytes(A_ASSOCIATE_RQ(primitive).encode())


def test_a_known_request_says_what_pynetdicom_decodes() -> None:
    data = request()
    decoded = A_ASSOCIATE_RQ()
    decoded.decode(data)
    theirs, ours = decoded.to_primitive(), known_request(data).to_primitive()
    assert ours.calling_ae_title == theirs.calling_ae_title == "CT1"
    assert ours.called_ae_title == theirs.called_ae_title
    assert ours.presentation_context_definition_list == theirs.presentation_context_definition_list
    assert ours.maximum_length_received == theirs.maximum_length_received == 16384
    assert known_request(data).protocol_version == 1


def test_the_same_bytes_are_decoded_once_and_others_apart() -> None:
    assert known_request(request()) is known_request(request())
    assert known_request(request("CT2")).to_primitive().calling_ae_title == "CT2"


def test_what_one_association_writes_into_its_request_no_other_sees() -> None:
    known_request(request()).to_primitive().result = 0x01
    assert known_request(request()).to_primitive().result is None


def test_only_association_requests_of_ordinary_length_are_remembered() -> None:
    assert is_remembered(request())
    assert not is_remembered(b"\x05" + request()[1:])
    assert not is_remembered(request() + bytes(LONGEST_REMEMBERED))


def test_a_broken_request_is_refused_each_time() -> None:
    for _ in range(2):
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the bytes provoke in the decoder
            known_request(request()[:80])


def test_the_event_of_a_request_has_its_name() -> None:
    assert _PDU_TYPES[bytes([ASSOCIATE_REQUEST])] == (A_ASSOCIATE_RQ, REQUEST_RECEIVED)


def test_an_answer_is_given_again_to_the_same_bytes_only() -> None:
    answers, answer = Answers(), KnownAnswer({1: build_context("1.2.3")}, [], b"accepted")
    answers.remember(request(), answer)
    assert answers.get(request()) is answer
    assert answers.get(request("CT2")) is None


def test_an_answer_that_accepts_nothing_is_not_remembered() -> None:
    answers = Answers()
    answers.remember(request(), KnownAnswer({}, [build_context("1.2.3")], b"accepted"))
    assert answers.get(request()) is None


def test_the_number_of_remembered_answers_is_bounded() -> None:
    answers, answer = Answers(), KnownAnswer({1: build_context("1.2.3")}, [], b"accepted")
    for number in range(10 * REMEMBERED):
        answers.remember(b"%d" % number, answer)
    assert len(answers) <= REMEMBERED
