"""Who may associate, and with what answer the others are turned away (PS3.8 9.3.4)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from voxtrial.daemon import settings
from voxtrial.daemon.errors import Misconfigured


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """Result, source and reason of an A-ASSOCIATE-RJ, and the same in words."""

    result: int
    source: int
    diagnostic: int
    reason: str


@dataclass(frozen=True)
class Policy:
    """The rules of ``[listener]``, ready to be asked.

    Raises
    ------
    Misconfigured
        ``accept.host`` is neither an address nor a network.
    """

    listener: settings.Listener

    def __post_init__(self) -> None:
        for accept in self.listener.accept:
            _network(accept.host)

    def rejection(
        self, *, calling_ae: str, called_ae: str, address: str, associations: int
    ) -> Rejection | None:
        """Return why the peer is turned away, or None when it may associate.

        ``associations`` is the number of those that are served now, without this one.
        """
        if called_ae != self.listener.ae_title.strip():
            reason = f"called AE title {called_ae!r} is not {self.listener.ae_title!r}"
            return Rejection(result=1, source=1, diagnostic=7, reason=reason)
        if not self._accepts(calling_ae, address):
            reason = f"calling AE title {calling_ae!r} from {address} is not in listener.accept"
            return Rejection(result=1, source=1, diagnostic=3, reason=reason)
        if associations >= self.listener.maximum_associations:
            reason = f"{associations} associations are open, the maximum"
            return Rejection(result=2, source=3, diagnostic=2, reason=reason)
        return None

    def allows_address(self, address: str) -> bool:
        """Return whether anybody may store from ``address``: for protocols without AE titles.

        A rule that names no host is for its AE title only, and says nothing about addresses.
        """
        peer = _address(address)
        return peer.is_loopback or any(
            accept.host and peer in _network(accept.host) for accept in self.listener.accept
        )

    def _accepts(self, calling_ae: str, address: str) -> bool:
        peer = _address(address)
        if not self.listener.accept:
            return peer.is_loopback
        return any(
            accept.ae_title.strip() == calling_ae and (not accept.host or peer in _network(accept.host))
            for accept in self.listener.accept
        )


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _network(host: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(host or "0.0.0.0/0", strict=False)
    except ValueError as error:
        raise Misconfigured(
            f"listener.accept host {host!r} is neither an address nor a network such as 10.1.2.0/24."
        ) from error
