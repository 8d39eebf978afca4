"""What a setting of a queue server accepts is the same for the attribute and for the option of the command."""

from __future__ import annotations

import pytest

from cyasgi.cli.consume_options import ATTRIBUTES, MOST_INSTANCES
from cyasgi.sources.queue import QueueServer
from cyasgi.sources.queue.names import ReplyExchange

#: For each setting, values that are accepted and values that are not, as text.
VALUES = {
    "prefetch": (["1", "65535"], ["0", "65536", "1.5", "none", "", "x"]),
    "max_deliveries": (["1", "1000000"], ["0", "-1", "2.5", "none"]),
    "retry_delay": (["0", "0.5", "60"], ["-0.1", "60.1", "none", "nan"]),
    "max_message_size": (["1", "1000000000000"], ["0", "none"]),
    "balance_interval": (["0.01", "60"], ["0", "0.001", "61", "none"]),
    "reply_exchange": (["answers", "none", "x" * 255], ["", "x" * 256, "\ud800"]),
    "acknowledgement": (["automatic", "manual"], ["", "none", "auto", "Manual"]),
    "idle_timeout": (["0.1", "1000000", "none"], ["0", "-1", "inf"]),
    "shutdown_timeout": (["0", "10"], ["-1", "none", "inf"]),
    "max_applications": (["1", "none"], ["0", "-1", "1.5"]),
}
SETTINGS = (*ATTRIBUTES, MOST_INSTANCES)


def test_all_are_tried():
    assert {one.attribute for one in SETTINGS} == VALUES.keys()


@pytest.mark.parametrize("one", SETTINGS, ids=lambda one: one.attribute)
def test_bounds(one):
    server = QueueServer(None, engine="memory:")
    good, bad = VALUES[one.attribute]
    for text in good:
        value = one.bound.parse(text)
        setattr(server, one.attribute, value)
        assert getattr(server, one.attribute) == value
        assert one.bound.parse(one.bound.written(value)) == value
    for text in bad:
        with pytest.raises(ValueError, match="accepted"):
            one.bound.parse(text)


@pytest.mark.parametrize("one", SETTINGS, ids=lambda one: one.attribute)
@pytest.mark.parametrize("value", [True, b"1", [], object])
def test_other_kinds(one, value):
    server = QueueServer(None, engine="memory:")
    with pytest.raises(TypeError, match=f"{one.attribute}=.*: accepted is"):
        setattr(server, one.attribute, value)


def test_the_name_of_an_exchange():
    assert ReplyExchange().accepted == "a str of 1 to 255 bytes, or None for no exchange"
