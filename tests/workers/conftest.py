"""What every test here needs: the command on one of the twins, and one of the loops."""

from __future__ import annotations

import sys

import pytest

from support.workers import Workers

collect_ignore_glob = ["test_*"] if sys.platform != "linux" else []


@pytest.fixture
def workers(request, cy, run, tmp_path):
    """workers(*arguments) starts the command; what it has started has ended after the test."""
    started = []

    def start(*arguments, **changes):
        loop = request.node.callspec.params["run"]
        command = Workers(tmp_path, "--loop", loop, *arguments, backend=cy.backend, **changes)
        started.append(command)
        return command

    yield start
    for command in started:
        command.__exit__()
