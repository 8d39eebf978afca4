"""The model of capacity: what it makes of the figures of a run, and of one that has not enough of them."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("resource")  # the benchmarks are for systems that have it
capacity = pytest.importorskip("benchmarks.capacity")
judge = pytest.importorskip("benchmarks.judge")
main = pytest.importorskip("benchmarks.__main__").main
Measurement = pytest.importorskip("benchmarks.question").Measurement

#: By question, figure and size.
FIGURES = {
    "capacity": {
        "bytes": {10_000: 1000, 100_000: 1100},
        "udp_cpu": {1_000: 4e-6, 10_000: 5e-6, 100_000: 6e-6},
        "udp_rate": {10_000: 200_000, 100_000: 100_000},
        "udp_rate_two": {10_000: 400_000, 100_000: 250_000},
    },
    "engines": {
        "redis_rate": {1: 1000, 2: 1600},
        "redis_cpu": {1: 9e-6, 2: 10e-6},
        "redis_server": {2: 10e-6},
        "redis_sent": {2: 40e-6},
        "amqp_rate": {1: 100, 2: 200},
        "amqp_cpu": {2: 200e-6},
        "amqp_server": {2: 100e-6},
        "amqp_sent": {2: 150e-6},
        "amqp_moved": {2: 1.5},
    },
}


def records(left_out=""):
    return [
        Measurement(question, figure, size, "cython", "uvloop", "on", [value])
        for question, figures in FIGURES.items()
        for figure, sizes in figures.items()
        for size, value in sizes.items()
        if figure != left_out
    ]


@pytest.fixture
def costs():
    return capacity.Costs(judge.Answers(records()))


def test_predictions(costs):
    """Of memory as it is among fewer, of time along the last two; twice one worker for two."""
    found = {(one.title, one.size): (one.predicted, round(one.error, 3)) for one in capacity.predictions(costs)}
    titles = capacity.CAPACITY.figures
    assert found[titles["bytes"].title, 100_000] == (1000, round(1000 / 1100 - 1, 3))
    assert found[titles["udp_cpu"].title, 10_000] == (4e-6, -0.2)
    assert found[titles["udp_cpu"].title, 100_000] == (pytest.approx(6e-6), 0)
    assert found[titles["udp_rate_two"].title, 100_000] == (200_000, -0.2)
    assert found[capacity.ENGINES.figures["redis_rate"].title, 2] == (2000, 0.25)
    assert found[capacity.ENGINES.figures["amqp_rate"].title, 2] == (200, 0)


def test_needs(costs, monkeypatch):
    """Of ten million clients: by hand."""
    monkeypatch.setattr(capacity, "MESSAGES", 0.1)
    monkeypatch.setattr(capacity, "CORES", 10)
    monkeypatch.setattr(capacity, "MEMORY", 2**30)
    monkeypatch.setattr(capacity, "USED", 0.5)
    udp, redis, rabbit = capacity.needs(costs, 10_000_000)
    # A million messages take 12 cores, but 100,000 clients are the most of a worker.
    assert udp.workers == 100
    assert udp.machines == pytest.approx(11e9 / 2**29)
    assert udp.bottleneck == "memory"
    assert redis.workers == pytest.approx(20)
    assert redis.engine == "100 Redis servers"
    assert redis.machines == pytest.approx(12)
    assert redis.bottleneck == "the engine"
    assert rabbit.workers == pytest.approx(400)
    assert rabbit.engine == "500 cores of RabbitMQ"
    assert rabbit.machines == pytest.approx(90)


def test_limits(costs):
    found = {limit.what: limit.messages for limit in capacity.limits(costs)}
    assert found["a Redis, whose scripts run one by one"] == pytest.approx(0.5 / 50e-6)
    assert found["a worker on RabbitMQ"] == pytest.approx(2500)


def written(tmp_path, found):
    environment = {"commit": "0" * 40, "python": "CPython"}
    content = {"environment": environment, "mode": "quick", "measurements": [one.record() for one in found]}
    (tmp_path / "results.json").write_text(json.dumps(content))
    return str(tmp_path)


def test_command(tmp_path, capsys):
    assert main(["model", written(tmp_path, records())]) == 0
    told = capsys.readouterr().out
    assert "| 1,000,000,000 | RabbitMQ |" in told
    assert "its share of partitions after 1.50 s" in told


def test_run_that_has_not_enough(tmp_path, capsys):
    """It is named in one line."""
    with pytest.raises(SystemExit):
        main(["model", written(tmp_path, records(left_out="amqp_moved"))])
    assert "the run has no 'amqp_moved' of 'engines': ask for capacity and engines" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["model", str(tmp_path / "nowhere")])
    assert "no results.json is there" in capsys.readouterr().err
