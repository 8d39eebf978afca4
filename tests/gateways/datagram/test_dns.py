"""The DNS application: its answers, and the real `dig` against the real command."""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.update
import pytest
from hypothesis import given, strategies as st

from cyasgi.dns import LARGEST, ZoneApplication, example
from support.udp import Command, clients, gateway, serving_datagrams


def ask(name, kind="A", application=example, **options):
    """The application's answer to a question, parsed."""
    return dns.message.from_wire(application.answer(dns.message.make_query(name, kind, **options).to_wire()))


def records(section):
    return [f"{rrset.name} {dns.rdatatype.to_text(rrset.rdtype)} {record}" for rrset in section for record in rrset]


# ---- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("cyasgi.example.", "A", ["cyasgi.example. A 192.0.2.1"]),
        ("cyasgi.example.", "AAAA", ["cyasgi.example. AAAA 2001:db8::1"]),
        ("cyasgi.example.", "MX", ["cyasgi.example. MX 10 mail.cyasgi.example."]),
        ("cyasgi.example.", "TXT", ['cyasgi.example. TXT "Served by an ASGI application."']),
        ("_sip._udp.cyasgi.example.", "SRV", ["_sip._udp.cyasgi.example. SRV 10 5 5060 mail.cyasgi.example."]),
        ("a.pages.cyasgi.example.", "A", ["a.pages.cyasgi.example. A 192.0.2.80"]),
        ("a.b.pages.cyasgi.example.", "A", ["a.b.pages.cyasgi.example. A 192.0.2.80"]),
        (
            "alias.cyasgi.example.",
            "A",
            [
                "alias.cyasgi.example. CNAME www.cyasgi.example.",
                "www.cyasgi.example. CNAME cyasgi.example.",
                "cyasgi.example. A 192.0.2.1",
            ],
        ),
        ("alias.cyasgi.example.", "CNAME", ["alias.cyasgi.example. CNAME www.cyasgi.example."]),
        ("elsewhere.cyasgi.example.", "A", ["elsewhere.cyasgi.example. CNAME www.example.net."]),
        ("loop.cyasgi.example.", "A", ["loop.cyasgi.example. CNAME loop.cyasgi.example."]),
    ],
)
def test_answers(name, kind, expected):
    """Names of the zone are answered with authority, by way of aliases and wildcards (RFC 1034, 4.3.2)."""
    response = ask(name, kind)
    assert records(response.answer) == expected
    assert response.rcode() == dns.rcode.NOERROR
    assert response.flags & dns.flags.AA
    assert not response.flags & dns.flags.RA
    assert not response.authority


def test_two_records():
    """A set of records is answered whole."""
    assert sorted(records(ask("cyasgi.example.", "NS").answer)) == [
        "cyasgi.example. NS ns1.cyasgi.example.",
        "cyasgi.example. NS ns2.cyasgi.example.",
    ]


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("nobody.cyasgi.example.", "A", dns.rcode.NXDOMAIN),
        ("a.www.cyasgi.example.", "A", dns.rcode.NXDOMAIN),
        ("www.cyasgi.example.", "SSHFP", dns.rcode.NOERROR),
        ("_udp.cyasgi.example.", "A", dns.rcode.NOERROR),
        ("pages.cyasgi.example.", "A", dns.rcode.NOERROR),
        ("a.pages.cyasgi.example.", "AAAA", dns.rcode.NOERROR),
    ],
)
def test_negative_answers(name, kind, code):
    """What there is not is denied with the zone's SOA, for as long as that says (RFC 2308); names that only have names
    below them exist (RFC 4592)."""
    response = ask(name, kind)
    assert response.rcode() == code
    (soa,) = response.authority
    assert (str(soa.name), soa.rdtype, soa.ttl) == ("cyasgi.example.", dns.rdatatype.SOA, 300)


def test_any_is_answered_with_one_set():
    """Whoever asks for any type gets one set of records (RFC 8482)."""
    response = ask("cyasgi.example.", "ANY")
    assert len(response.answer) == 1
    assert ask("_udp.cyasgi.example.", "ANY").rcode() == dns.rcode.NOERROR


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("example.org.", "A", {}),
        (".", "NS", {}),
        ("example.", "SOA", {}),
        ("cyasgi.example.", "AXFR", {}),
        ("cyasgi.example.", "A", {"rdclass": "CH"}),
    ],
)
def test_refusals(name, kind, options):
    """Other zones, classes and transfers are refused."""
    response = ask(name, kind, **options)
    assert response.rcode() == dns.rcode.REFUSED
    assert not response.flags & dns.flags.AA


def test_the_question_comes_back_as_it_was():
    """The name keeps its letters' case, on which resolvers rely."""
    assert records(ask("CyAsGi.eXaMpLe.").answer) == ["CyAsGi.eXaMpLe. A 192.0.2.1"]


@pytest.mark.parametrize(
    ("payload", "truncated"), [(None, True), (512, True), (600, True), (1232, False), (65_535, False)]
)
def test_truncation(payload, truncated):
    """An answer longer than the client takes (512 bytes unless it says more) comes truncated, and says so."""
    options = {} if payload is None else {"use_edns": 0, "payload": payload}
    query = dns.message.make_query("long.cyasgi.example.", "TXT", **options)
    wire = example.answer(query.to_wire())
    response = dns.message.from_wire(wire)
    assert bool(response.flags & dns.flags.TC) is truncated
    assert bool(response.answer) is not truncated
    assert len(wire) <= min(payload or 512, LARGEST)
    assert response.edns == (-1 if payload is None else 0)


def test_edns_of_a_later_version():
    """A version of EDNS that is not known is answered with BADVERS (RFC 6891, 6.1.3)."""
    assert ask("cyasgi.example.", use_edns=1).rcode() == dns.rcode.BADVERS


def test_other_operations():
    """Updates are not implemented, and the answer says so."""
    update = dns.update.UpdateMessage("cyasgi.example.")
    update.add("new", 300, "A", "192.0.2.9")
    answer = dns.message.from_wire(example.answer(update.to_wire()))
    assert (answer.id, answer.rcode(), answer.opcode()) == (update.id, dns.rcode.NOTIMP, dns.opcode.UPDATE)


def test_malformed_queries():
    """What cannot be read is answered with FORMERR and the id; what has no id, or is an answer, not at all."""
    query = dns.message.make_query("cyasgi.example.", "A").to_wire()
    for bad in (query[:-1], query + b"x", query[:12], query[:4] + b"\0\2" + query[6:]):
        answer = dns.message.from_wire(example.answer(bad))
        assert answer.rcode() == dns.rcode.FORMERR
        assert answer.to_wire()[:2] == query[:2]
    assert example.answer(b"") is None
    assert example.answer(query[:11]) is None
    assert example.answer(example.answer(query)) is None


@pytest.mark.slow
@given(st.binary(max_size=600))
def test_any_datagram(data):
    """Whatever comes, the answer is none or a message that fits."""
    answer = example.answer(data)
    if answer is not None:
        assert 12 <= len(answer) <= LARGEST
        assert answer[:2] == data[:2]
        assert answer[2] & 0x80


@pytest.mark.slow
@given(st.data())
def test_any_damage_to_a_query(data):
    """A query with some bytes changed gets an answer, or none, but no error."""
    query = bytearray(dns.message.make_query("a.b.pages.cyasgi.example.", "TXT", use_edns=0).to_wire())
    for _ in range(data.draw(st.integers(1, 6))):
        query[data.draw(st.integers(0, len(query) - 1))] = data.draw(st.integers(0, 255))
    answer = example.answer(bytes(query))
    if answer is not None:
        dns.message.from_wire(answer)


# ---- zones ---------------------------------------------------------------------------------------------------------

ZONE = """
@ 60 IN SOA ns hostmaster 1 7200 900 1209600 900
@ 60 IN NS ns
ns 60 IN A 192.0.2.53
"""


def test_own_zone(tmp_path):
    """A zone may come from a file, by any kind of name, or from an open one; its origin may be given."""
    path = tmp_path / "my.zone"
    path.write_text(ZONE, encoding="utf-8")
    for zone in (path, str(path), io.StringIO(ZONE)):
        application = ZoneApplication(zone, "example.org")
        assert records(ask("ns.example.org.", application=application).answer) == ["ns.example.org. A 192.0.2.53"]
        (soa,) = ask("www.example.org.", application=application).authority
        assert soa.ttl == 60


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (ZONE + "sub 60 IN NS ns.sub\nns.sub 60 IN A 192.0.2.1\n", ValueError),
        ("@ 60 IN A 192.0.2.1", dns.exception.DNSException),
        ("nonsense", dns.exception.DNSException),
    ],
)
def test_zones_that_cannot_be_served(text, error):
    """A zone that delegates, and a file that is none, are refused."""
    with pytest.raises(error):
        ZoneApplication(io.StringIO(text), "example.org")


def test_a_zone_file_that_is_not_there(tmp_path):
    """A missing file is an OSError."""
    with pytest.raises(OSError, match="missing"):
        ZoneApplication(tmp_path / "missing", "example.org")


def test_other_scopes(cy, run):
    """The application raises for a scope that is none of datagrams, as the ASGI specification wants."""
    with pytest.raises(ValueError, match="'http'"):
        run(example({"type": "http"}, None, None))


# ---- served --------------------------------------------------------------------------------------------------------


def test_served(cy, run):
    """Over the gateway a query is answered, and what deserves no answer gets none."""

    async def main():
        query = dns.message.make_query("cyasgi.example.", "A")
        server = gateway(cy).DatagramServer(example, binds=("127.0.0.1", 0))
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                client.send(b"", b"short", query.to_wire())
                answer = dns.message.from_wire(await client.receive())
        assert query.is_response(answer)
        assert (server.stats()["datagrams_received"], server.stats()["datagrams_sent"]) == (3, 1)
        assert server.stats()["failed"] == 0

    run(main())


@pytest.fixture
def dig():
    """Asks with the real `dig`, which must be installed; gives what it prints."""
    program = shutil.which("dig")
    assert program, "dig is not installed: it comes with bind9-dnsutils"

    def ask(address, *arguments):
        completed = subprocess.run(
            [program, f"@{address[0]}", "-p", str(address[1]), "+tries=1", "+time=10", "+nocookie", *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout

    return ask


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_dig(cy, dig, tmp_path, host):
    """The real `dig` gets the right answers from the real command, over IPv4 and IPv6."""
    with Command("serve", "--udp", f"{host}:0", "cyasgi.dns:example", cwd=tmp_path, backend=cy.backend) as command:
        address = command.listening()
        assert dig(address, "+short", "cyasgi.example", "MX") == "10 mail.cyasgi.example.\n"
        assert dig(address, "+short", "alias.cyasgi.example", "AAAA").splitlines() == [
            "www.cyasgi.example.",
            "cyasgi.example.",
            "2001:db8::1",
        ]
        assert dig(address, "+short", "x.pages.cyasgi.example") == "192.0.2.80\n"
        answer = dig(address, "nobody.cyasgi.example")
        assert "status: NXDOMAIN" in answer
        assert "flags: qr aa rd;" in answer
        assert "\tSOA\tns1.cyasgi.example." in answer
        assert "status: REFUSED" in dig(address, "example.org")
        assert "flags: qr aa tc rd;" in dig(address, "+noedns", "+ignore", "long.cyasgi.example", "TXT")
        assert "xxxxxxxx" in dig(address, "+bufsize=1232", "long.cyasgi.example", "TXT")
        assert "status: BADVERS" in dig(address, "+edns=1", "+noednsnegotiation", "cyasgi.example")
        assert "status: NOTIMP" in dig(address, "+opcode=update", "+noedns", "cyasgi.example")
        assert command.stop(signal.SIGTERM) == 0
        assert "datagrams_received=9 datagrams_sent=9" in command.lines[-1]


@pytest.mark.slow
def test_dig_asks_for_a_zone_of_ones_own(cy, dig, tmp_path):
    """An application of a few lines serves a zone of one's own."""
    Path(tmp_path, "my.zone").write_text(ZONE, encoding="utf-8")
    Path(tmp_path, "mine.py").write_text(
        "from cyasgi.dns import ZoneApplication\n\napplication = ZoneApplication('my.zone', 'example.org')\n",
        encoding="utf-8",
    )
    with Command("serve", "--udp", "127.0.0.1:0", "mine:application", cwd=tmp_path, backend=cy.backend) as command:
        assert dig(command.listening(), "+short", "ns.example.org") == "192.0.2.53\n"
        assert command.stop(signal.SIGINT) == 0
