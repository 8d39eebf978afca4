"""The garbage collector's thresholds while run() has the process to itself."""

from __future__ import annotations

import gc
import threading

import pytest

from support.serving import handling, reader

OWN_CHOICE = (701, 11, 11)


@pytest.fixture(autouse=True)
def thresholds():
    """Puts back what this interpreter had."""
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)


def running(cy, seen, *actions):
    """A server whose handle() notes the thresholds, then does this."""

    async def handle(server):
        seen.append(gc.get_threshold())
        for action in actions:
            action()

    return handling(cy.StatelessServer, handle)(reader)


@pytest.mark.slow
def test_collects_less_often_while_it_runs(cy, thresholds):
    """Between the beginning of run() and its end the thresholds are higher, otherwise what they were."""
    seen = []
    server = running(cy, seen)
    for _ in range(2):
        server.run()
        assert gc.get_threshold() == thresholds
    assert seen == [(5_000, 10, 100)] * 2


def test_is_undone_when_the_server_fails(cy, thresholds):
    """An error in handle() leaves nothing behind either."""

    def fail():
        raise LookupError("on purpose")

    with pytest.raises(LookupError):
        running(cy, [], fail).run()
    assert gc.get_threshold() == thresholds


def test_what_the_user_chose_before_stays(cy):
    """Thresholds that are not the interpreter's own are somebody's choice."""
    gc.set_threshold(*OWN_CHOICE)
    seen = []
    running(cy, seen).run()
    assert seen == [OWN_CHOICE]
    assert gc.get_threshold() == OWN_CHOICE


def test_what_the_user_chooses_meanwhile_stays(cy):
    """So are those set while the server runs."""
    running(cy, [], lambda: gc.set_threshold(*OWN_CHOICE)).run()
    assert gc.get_threshold() == OWN_CHOICE


def test_a_thread_of_its_own_does_not_own_the_process(cy, thresholds):
    """run() in another thread than the main one leaves the collector alone."""
    seen = []
    thread = threading.Thread(target=running(cy, seen).run)
    thread.start()
    thread.join(30)
    assert seen == [thresholds]


def test_arun_leaves_the_collector_alone(cy, run, thresholds):
    """The loop is the caller's, and so is the process."""
    seen = []
    run(running(cy, seen).arun())
    assert seen == [thresholds]
