"""The private names of pynetdicom that the reactors lean on: an upgrade that changes one fails here."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import pynetdicom.association
import pynetdicom.dul
import pynetdicom.transport
from pynetdicom import AE, _config, evt, fsm
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.presentation import PresentationContext


def source(thing: object) -> str:
    return inspect.getsource(thing)  # type: ignore[arg-type]  # any object with a source


def test_the_version_is_the_one_that_was_read() -> None:
    assert version("pynetdicom") == "3.0.4"


def test_the_dul_has_the_queues_and_methods_that_ours_replaces_and_calls() -> None:
    dul = DULServiceProvider(Association(AE(), "acceptor"))
    for name in (
        "event_queue",
        "to_provider_queue",
        "to_user_queue",
        "_recv_pdu",
        "artim_timer",
        "_idle_timer",
    ):
        assert hasattr(dul, name), name
    assert dul._kill_thread is False
    for name in ("run_reactor", "_process_recv_primitive", "_decode_pdu", "kill_dul", "stop_dul"):
        assert callable(getattr(dul, name)), name


def test_the_dul_lets_the_association_go_by_the_flag_that_ours_sets() -> None:
    assert "_dul_ready.set()" in source(DULServiceProvider.run_reactor)
    assert "_dul_ready.wait()" in source(Association.run_reactor)


def test_the_association_calls_the_reactor_that_ours_overrides() -> None:
    assert "self._run_reactor()" in source(Association.run_reactor)
    assert list(inspect.signature(Association._serve_request).parameters) == ["self", "msg", "context_id"]
    for name in ("_kill", "_accepted_cx", "_server"):
        assert hasattr(Association(AE(), "acceptor"), name), name


def test_after_any_event_an_association_is_aborted_by_the_method_that_ours_overrides() -> None:
    assert 'setattr(assoc, "abort", assoc._abort_blocking)' in source(evt.trigger)
    assert "self._abort_blocking(block)" in source(Association.abort)
    assert "self._abort_blocking(block)" in source(Association._abort_nonblocking)


def test_what_the_handler_of_a_request_raises_is_logged_and_would_be_accepted() -> None:
    assert evt.EVT_REQUESTED.is_notification
    assert "if not self.is_aborted and not self.is_rejected" in source(Association.run_reactor)


def test_an_acceptor_that_reads_nothing_from_its_upper_layer_ends() -> None:
    dul = DULServiceProvider(Association(AE(), "acceptor"))
    dul.to_user_queue.put(None)  # type: ignore[arg-type]  # ours puts it at the end of the connection
    assert dul.peek_next_pdu() is None
    assert dul.receive_pdu(wait=True, timeout=60) is None
    reactor = source(Association.run_reactor)
    assert reactor.index("if primitive is None:") < reactor.index("self.kill()") < reactor.index("return")


def test_timeouts_are_kept_in_the_timers_of_the_dul() -> None:
    association = Association(AE(), "acceptor")
    association.network_timeout, association.acse_timeout = 7.0, 5.0
    assert association.dul._idle_timer.timeout == 7.0
    assert association.dul.artim_timer.timeout == 5.0


def test_a_provider_primitive_stays_queued_until_the_state_machine_takes_it() -> None:
    assert "to_provider_queue.queue[0]" in source(DULServiceProvider._process_recv_primitive)


def test_messages_that_we_do_not_serve_go_through_the_provider_that_we_call() -> None:
    parameters = list(inspect.signature(DIMSEServiceProvider.receive_primitive).parameters)
    assert parameters == ["self", "primitive"]
    assert "msg_queue.put(" in source(DIMSEServiceProvider.receive_primitive)


def test_the_states_and_events_have_their_names() -> None:
    assert fsm.TRANSITION_TABLE[("Evt10", "Sta6")] == "DT-2"  # data while established
    assert fsm.TRANSITION_TABLE[("Evt17", "Sta6")] == "AA-4"  # connection closed
    assert fsm.TRANSITION_TABLE[("Evt19", "Sta6")] == "AA-8"  # invalid PDU
    assert fsm.TRANSITION_TABLE[("Evt18", "Sta13")] == "AA-2"  # ARTIM while awaiting the close
    assert fsm.TRANSITION_TABLE[("Evt17", "Sta13")] == "AR-5"


def test_the_acceptor_takes_the_first_of_its_own_syntaxes_that_was_proposed() -> None:
    from pynetdicom.presentation import negotiate_as_acceptor

    proposed = PresentationContext()
    proposed.context_id, proposed.abstract_syntax = 1, "1.2.3"
    proposed.transfer_syntax = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"]
    supported = PresentationContext()
    supported.abstract_syntax = "1.2.3"
    supported.transfer_syntax = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]
    ((accepted,), _) = negotiate_as_acceptor([proposed], [supported])
    assert accepted.transfer_syntax == ["1.2.840.10008.1.2.1"]


def test_the_handler_makes_associations_where_ours_does() -> None:
    assert "self._create_association()" in source(pynetdicom.transport.RequestHandler.handle)


def test_the_settings_that_we_change_exist() -> None:
    assert hasattr(_config, "LOG_HANDLER_LEVEL")
    assert hasattr(_config, "STORE_SEND_CHUNKED_DATASET")


def test_the_reactor_of_an_association_waits_on_the_checkpoint_that_ours_replaces() -> None:
    association = Association(AE(), "requestor")
    assert association._reactor_checkpoint.is_set()
    assert association._is_paused is False
    turn = source(Association._run_reactor)
    assert turn.index("self._is_paused = True") < turn.index("self._reactor_checkpoint.wait()")
    assert turn.index("self._reactor_checkpoint.wait()") < turn.index("self.dimse.get_msg(block=False)")
    for method in (Association.send_c_store, Association.send_c_find, Association.release):
        assert "while not self._is_paused" in source(method)


def test_the_acceptor_negotiates_in_the_method_that_ours_overrides() -> None:
    assert "self._negotiate_as_acceptor()" in source(ACSE.negotiate_association)
    negotiation = source(ACSE._negotiate_as_acceptor)
    for step in (
        "self.requestor.ae_title = assoc_rq.calling_ae_title",
        "self.assoc._accepted_cx = {",
        "self.assoc._rejected_cx = [",
        "self.send_accept()",
        "evt.EVT_ACCEPTED",
        "self.assoc.is_established = True",
        "evt.EVT_ESTABLISHED",
    ):
        assert step in negotiation, step
    assert "self.acceptor.primitive = primitive" in source(ACSE.send_accept)
    assert "self.dul.send_pdu(primitive)" in source(ACSE.send_accept)


def test_an_acceptance_is_sent_by_the_method_that_ours_overrides() -> None:
    assert "dul._send(A_ASSOCIATE_AC(primitive))" in source(fsm.AE_7)
    assert fsm.TRANSITION_TABLE[("Evt7", "Sta3")] == "AE-7"
