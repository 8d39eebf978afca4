"""amqps://: RabbitMQ with TLS, and what is said of certificates and files that are not what they should be."""

from __future__ import annotations

import asyncio
import importlib
import re

import pytest

from support.certificates import write_certificates
from support.queues import Seen, queues
from support.rabbitmq import aiormq as aiormq, name as name
from support.serving import in_time

pytestmark = pytest.mark.few_combinations


@pytest.fixture
def wrong(tmp_path):
    """Certificates of an authority that nobody knows."""
    write_certificates(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    "files", ["cafile={ours}/ca.pem", "cafile={ours}/ca.pem&certfile={ours}/client.pem&keyfile={ours}/client-key.pem"]
)
def test_messages(cy, run, broker, aiormq, name, files):
    letter = importlib.import_module(f"{cy.__name__}.wire.queue").Letter

    async def main():
        seen = Seen()
        url = f"{broker.tls_url}?{files.format(ours=broker.certificates)}"
        server = queues(cy).QueueServer(seen, engine=url, name=name, partitions=2)
        running = asyncio.create_task(server.arun())
        await server.wait_started()
        # Through the careful reader, too.
        server.engine._unreadable()
        for session in range(2):
            await server._session.publish(name, "a", letter(b"%d" % session))
            # The first may come again.
            await in_time(lambda body=b"%d" % session: body in seen.bodies)
            if not session:
                old = server._session
                await old._connection.close()
                await in_time(lambda old=old: server._session is not old and server.stats()["partitions"] == 2)
        server.stop()
        await running

    run(main())


async def refusal(cy, url):
    server = queues(cy).QueueServer(Seen(), engine=url, name="tls", partitions=2)
    with pytest.raises(queues(cy).EngineError) as raised:
        await server.arun()
    said = str(raised.value)
    assert "\n" not in said and "guest" not in said
    return said


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("{tls}", "amqps://127.0.0.1:{port}/: the broker's certificate is not accepted: self"),
        ("{tls}?cafile={wrong}/ca.pem", "amqps://127.0.0.1:{port}/: the broker's certificate is not accepted: self"),
        (
            "{named}?cafile={ours}/ca.pem",
            "amqps://localhost:{port}/: the broker's certificate is not accepted: Hostname mismatch",
        ),
        (
            "{tls}?cafile={ours}/ca.pem&certfile={wrong}/cert.pem&keyfile={wrong}/key.pem",
            "(TLS has failed: .*unknown ca|it may not accept the certfile)",
        ),
        ("{plain}?cafile={ours}/ca.pem", "the broker does not speak TLS at this port"),
    ],
    ids=["unknown", "another authority", "another name", "client", "plain port"],
)
def test_what_is_not_accepted(cy, run, broker, wrong, url, said):
    pytest.importorskip("aiormq")
    values = {
        "tls": broker.tls_url,
        "named": broker.tls_url.replace("127.0.0.1", "localhost"),
        "plain": broker.url.replace("amqp:", "amqps:"),
        "ours": broker.certificates,
        "wrong": wrong,
        "port": broker.tls_port,
    }

    async def main():
        assert re.search(said.format(**values), await refusal(cy, url.format(**values)))

    run(main())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("cafile={files}/none.pem", "cafile={files}/none.pem: No such file or directory"),
        ("cafile={files}/key.pem", "cafile={files}/key.pem: accepted is a file with certificates in PEM"),
        ("certfile={files}/ca.pem", "certfile={files}/ca.pem: accepted are a certificate and its key in PEM"),
        (
            "certfile={files}/cert.pem&keyfile={files}/locked.pem",
            "certfile={files}/cert.pem with keyfile={files}/locked.pem: {accepted} (the key has a password)",
        ),
        ("certfile={files}/cert.pem&keyfile={files}/other.pem", "without a password (KEY_VALUES_MISMATCH)"),
    ],
)
def test_files(cy, run, wrong, options, said):
    """The message names the one that is wrong, before anything is connected."""
    pytest.importorskip("aiormq")

    async def main():
        accepted = "accepted are a certificate and its key in PEM, without a password"
        assert said.format(files=wrong, accepted=accepted) in await refusal(
            cy, f"amqps://h:1/?{options.format(files=wrong)}"
        )

    run(main())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "amqps://h/?cafil=x",
            "amqps://h/: unknown option 'cafil': accepted are heartbeat, cafile, certfile and keyfile",
        ),
        ("amqps://h/?no_verify_ssl=1", "unknown option 'no_verify_ssl'"),
        ("amqps://h/?keyfile=x", "keyfile needs a certfile"),
        ("amqp://h/?cafile=x", "unknown option 'cafile': accepted are heartbeat; cafile, certfile, keyfile with amqps"),
    ],
)
def test_options(cy, url, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        queues(cy).QueueServer(Seen(), engine=url)
