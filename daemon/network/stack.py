"""pynetdicom as we use it: one place that configures the library."""

from __future__ import annotations

import socket
from typing import Any

from pynetdicom import AE, _config, evt, register_uid
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from voxtrial.daemon.network import contexts, part10

_config.LOG_HANDLER_LEVEL = "none"  # a log handler on every PDU costs more than the PDU
_config.STORE_SEND_CHUNKED_DATASET = True  # files are sent byte for byte, never decoded and encoded again

for _sop_class in contexts.STORAGE_CLASSES:
    if uid_to_service_class(_sop_class) is not StorageServiceClass:  # private, or newer than the library
        register_uid(_sop_class, f"Storage_{_sop_class.replace('.', '_')}", StorageServiceClass)

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0


def application_entity(ae_title: str, *, idle_seconds: float = ANSWER_SECONDS) -> AE:
    """Return an application entity that says who it is and gives up in time."""
    entity = AE(ae_title=ae_title)
    entity.implementation_class_uid = part10.IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = part10.IMPLEMENTATION_VERSION
    entity.connection_timeout = CONNECT_SECONDS
    entity.acse_timeout = min(ANSWER_SECONDS, idle_seconds)
    entity.dimse_timeout = ANSWER_SECONDS
    entity.network_timeout = idle_seconds
    entity.maximum_pdu_size = 131_072
    return entity


def no_delay(event: evt.Event) -> None:
    """Send small PDUs at once: Nagle's algorithm and a delayed acknowledgement cost 40 ms an instance."""
    transport: Any = event.assoc.dul.socket
    transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


NO_DELAY = (evt.EVT_CONN_OPEN, no_delay)
