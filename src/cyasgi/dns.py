"""A DNS server as an ASGI application, which answers from a zone file over the datagram gateway.

Run ``cyasgi serve --udp 127.0.0.1:5353 cyasgi.dns:example``, then ``dig @127.0.0.1 -p 5353 cyasgi.example MX``. For a
zone of your own, put ``application = ZoneApplication("my.zone")`` into a module.
"""

from __future__ import annotations

import os
from importlib import resources
from typing import IO, Any

try:
    import dns.edns
    import dns.exception
    import dns.flags
    import dns.message
    import dns.name
    import dns.node
    import dns.opcode
    import dns.rcode
    import dns.rdataclass
    import dns.rdataset
    import dns.rdatatype
    import dns.rrset
    import dns.zone
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "dns":
        raise
    raise ModuleNotFoundError("cyasgi.dns needs dnspython: pip install 'cyasgi[dns]'", name="dns") from None

from ._types import Receive, Scope, Send

#: The largest answer over UDP, in bytes: what passes practically every link unfragmented (DNS flag day 2020).
LARGEST = 1232

HEADER = 12
WHOLE_ZONE = {dns.rdatatype.AXFR, dns.rdatatype.IXFR}


class ZoneApplication:
    """An ASGI application that answers authoritatively for one zone (RFC 1034 section 4.3.2; RFC 2308; RFC 6891).

    It supports aliases, wildcards and negative answers, but no delegations, transfers, updates or signatures. Answers
    that do not fit are truncated; there is no TCP to repeat the query over.

    Args:
        zone: a zone file, by name or open.
        origin: the name of the zone; needed if the file has no $ORIGIN.

    Raises:
        OSError: the file cannot be read.
        dns.exception.DNSException: the file is not a zone file.
        ValueError: the zone delegates a part of itself.
    """

    def __init__(self, zone: str | os.PathLike[str] | IO[str], origin: str | None = None) -> None:
        file: Any = os.fspath(zone) if isinstance(zone, os.PathLike) else zone
        self.zone = dns.zone.from_file(file, origin, relativize=False)
        assert self.zone.origin is not None
        self.origin: dns.name.Name = self.zone.origin
        for name, node in self.zone.nodes.items():
            if name != self.origin and node.get_rdataset(dns.rdataclass.IN, dns.rdatatype.NS):
                raise ValueError(f"the zone {self.origin} delegates {name}: delegations are not served")
        # A name with nothing but names below it exists as well, without data (RFC 4592 section 2.2.2).
        self.names = {self.origin}
        for owner in self.zone:
            name = owner
            while name not in self.names:
                self.names.add(name)
                name = name.parent()
        soa = self.zone.get_rdataset(self.origin, dns.rdatatype.SOA)
        assert soa is not None
        self.negative = dns.rdataset.from_rdata(min(soa.ttl, soa[0].minimum), soa[0])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "datagram":
            raise ValueError(f"this application serves datagrams only, not {scope['type']!r}")
        while True:
            message = await receive()
            answer = self.answer(message["data"])
            if answer is not None:
                await send({"type": "datagram.send", "data": answer})

    def answer(self, data: bytes) -> bytes | None:
        """Return the answer to a query, both in wire format; None if it must not be answered."""
        # Two servers that answer answers would never stop.
        if len(data) < HEADER or data[2] & 0x80:
            return None
        if dns.opcode.from_flags(int.from_bytes(data[2:4], "big")) != dns.opcode.QUERY:
            return _bare(data, dns.rcode.NOTIMP)
        try:
            query = dns.message.from_wire(data)
            if len(query.question) != 1:
                return _bare(data, dns.rcode.FORMERR)
        except Exception:
            # Whatever the parser raises, the query was malformed.
            return _bare(data, dns.rcode.FORMERR)
        response = dns.message.make_response(query, our_payload=LARGEST)
        if query.edns > 0:
            response.set_rcode(dns.rcode.BADVERS)
        else:
            self.fill_in(response)
        room = min(query.payload, LARGEST) if query.edns >= 0 else 512
        return response.to_wire(max_size=room, prefer_truncation=True)

    def fill_in(self, response: dns.message.Message) -> None:
        """Answer the question of a response."""
        question = response.question[0]
        name, wanted = question.name, question.rdtype
        if question.rdclass != dns.rdataclass.IN or wanted in WHOLE_ZONE or not name.is_subdomain(self.origin):
            response.set_rcode(dns.rcode.REFUSED)
            return
        response.flags |= dns.flags.AA
        seen: set[dns.name.Name] = set()
        while True:
            exists, node = self.find(name)
            alias = None if node is None else node.get_rdataset(dns.rdataclass.IN, dns.rdatatype.CNAME)
            if alias is None or wanted in (dns.rdatatype.CNAME, dns.rdatatype.ANY):
                break
            response.answer.append(_rrset(name, alias))
            seen.add(name)
            name = alias[0].target
            if not name.is_subdomain(self.origin) or name in seen:
                return
        found = None
        if node is not None:
            # One record set is enough of an answer to ANY (RFC 8482).
            any_ = wanted == dns.rdatatype.ANY and node.rdatasets
            found = node.rdatasets[0] if any_ else node.get_rdataset(dns.rdataclass.IN, wanted)
        if found is not None:
            response.answer.append(_rrset(name, found))
            return
        if not exists:
            response.set_rcode(dns.rcode.NXDOMAIN)
        response.authority.append(_rrset(self.origin, self.negative))

    def find(self, name: dns.name.Name) -> tuple[bool, dns.node.Node | None]:
        """Return whether the name exists, and its data, its own or those of a wildcard."""
        if name in self.names:
            return True, self.zone.get_node(name)
        while name not in self.names:
            name = name.parent()
        node = self.zone.get_node(dns.name.Name((b"*", *name.labels)))
        return node is not None, node


def _rrset(name: dns.name.Name, rdataset: dns.rdataset.Rdataset) -> dns.rrset.RRset:
    return dns.rrset.from_rdata_list(name, rdataset.ttl, list(rdataset))


def _bare(query: bytes, code: dns.rcode.Rcode) -> bytes:
    """Return a header only, with the query's id, opcode and RD flag."""
    return query[:2] + bytes((0x80 | query[2] & 0x79, code)) + bytes(8)


def _example() -> ZoneApplication:
    with resources.files(__package__).joinpath("example.zone").open(encoding="utf-8") as file:
        return ZoneApplication(file)


#: Answers for ``cyasgi.example.``, from the zone file in the package.
example = _example()
