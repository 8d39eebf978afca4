"""The benchmarks' own code: what two runs are compared by, what a table says, what is left out and named."""

import json
import socket

import pytest

pytest.importorskip("resource")  # the benchmarks are for systems that have it
compare = pytest.importorskip("benchmarks.compare").compare
judge = pytest.importorskip("benchmarks.judge")
report = pytest.importorskip("benchmarks.report")
rounds = pytest.importorskip("benchmarks.rounds")
QUESTIONS = pytest.importorskip("benchmarks.catalogue").QUESTIONS
Measurement = pytest.importorskip("benchmarks.question").Measurement


def record(question, side, samples, figure="time", size=1_000, loop="asyncio"):
    return Measurement(question, figure, size, side, loop, "on", samples).record()


@pytest.fixture
def run(tmp_path):
    """Writes a run of these records and gives its directory."""

    def write(name, *records):
        directory = tmp_path / name
        directory.mkdir()
        found = {"environment": {"commit": "0" * 40, "python": "CPython"}, "mode": "quick", "measurements": records}
        (directory / "results.json").write_text(json.dumps(found))
        return directory

    return write


def wake(pure):
    """The reference and the pure twin, which takes so many times as long."""
    return [record("wake", "reference", [1.0] * 7), record("wake", "pure", [pure] * 7)]


@pytest.mark.slow
def test_the_same_is_well(run, capsys):
    assert compare(run("a", *wake(0.5)), run("b", *wake(0.5)), 0.25) == 0
    told = capsys.readouterr().out
    assert "pure / reference" in told
    assert "0 of 1 ratios are worse by more than 25%, 0 better." in told
    assert "Missing" not in told


@pytest.mark.parametrize(("after", "code", "word"), [(0.6, 0, ""), (0.7, 1, "WORSE"), (0.3, 0, "better")])
def test_past_the_threshold(run, capsys, after, code, word):
    assert compare(run("a", *wake(0.5)), run("b", *wake(after)), 0.25) == code
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wake")]
    assert rows[0].endswith(word or "%")


def test_what_one_run_lacks_is_named(run, capsys):
    first = run("a", *wake(0.5), record("drain", "reference", [1.0]), record("drain", "cython", [0.2]))
    second = run("b", *wake(0.5), record("wake", "reference", [1.0], size=5), record("wake", "pure", [1.0], size=5))
    assert compare(first, second, 0.25) == 0
    told = capsys.readouterr().out
    assert f"Missing in {second}:\n  drain (all of its 1 ratios)" in told
    assert f"Missing in {first}:\n  wake: time, 5, asyncio, pure / reference" in told


def test_what_was_asked_for_by_name_must_be_there(run, capsys):
    first, second = run("a", *wake(0.5)), run("b", *wake(0.5))
    assert compare(first, second, 0.25, ["wake"]) == 0
    assert compare(first, second, 0.25, ["wake", "drain"]) == 2
    assert compare(first, second, 0.25, ["drain"]) == 2
    assert "nothing to compare of drain" in capsys.readouterr().err


def test_nothing_in_common(run, capsys):
    assert compare(run("a", *wake(0.5)), run("b"), 0.25) == 2
    assert "no ratio in common" in capsys.readouterr().err


def test_without_a_reference_the_floor_or_the_plain_way_is_compared_with(run, capsys):
    records = [
        record("balance", "floor", [1.0], "round-robin", 4),
        record("balance", "cython", [8.0], "round-robin", 4),
    ]
    records += [record("managed", "pure", [1.0], "plain"), record("managed", "pure", [2.0], "limited")]
    assert compare(run("a", *records), run("b", *records), 0.25) == 0
    told = capsys.readouterr().out
    assert "cython / floor" in told
    assert "pure / plain" in told


def server_answers(busy):
    records = [record("http", "reference", [2e-5], "cpu", 64, "uvloop")]
    records += [
        record("http", "cython", [busy], "busy", 64, "uvloop"),
        record("http", "cython", [1e-5], "cpu", 64, "uvloop"),
    ]
    return judge.Answers([Measurement.from_record(one) for one in records])


def test_a_server_with_time_left_is_named():
    told = report.section(QUESTIONS["http"], server_answers(0.62))
    assert "Not short of time" in told
    assert "cython 62% (uvloop, 64 connections)" in told
    assert "Not short of time" not in report.section(QUESTIONS["http"], server_answers(0.97))


def test_the_table_says_how_many_rounds_and_how_they_spread():
    records = [record("wake", "cython", [1e-6, 2e-6, 3e-6])]
    told = report.section(QUESTIONS["wake"], judge.Answers([Measurement.from_record(one) for one in records]))
    assert "| 2.00 (1.00–3.00) |" in told
    assert "Medians of 3 rounds." in told


def test_samples_of_several_interpreters_are_one_measurement():
    twice = [record("wake", "pure", [1.0, 2.0]), record("wake", "cython", [5.0]), record("wake", "pure", [4.0])]
    pure, cython = rounds._joined(twice)
    assert (pure["samples"], pure["median"]) == ([1.0, 2.0, 4.0], 2.0)
    assert cython["samples"] == [5.0]


def test_what_a_way_adds_is_taken_round_by_round():
    samples = {
        ("plain", "pure", "on"): [1.0, 2.0],
        ("managed", "pure", "on"): [1.5, 4.0],
        ("plain", "floor", "on"): [0.5],
    }
    assert rounds._added("plain", samples) == {("managed.added", "pure", "on"): [0.5, 2.0]}
    assert rounds._added("", samples) == {}


def test_names_of_questions():
    """A question is asked for by its name, and its README figures are figures that it has."""
    for name, question in QUESTIONS.items():
        assert name == question.name
        assert set(question.told) <= set(question.figures)
        assert set(question.sizes) == {"quick", "usual", "full"}


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["hello", "browser", "logged", "posted", "echoed"])
def test_a_server_whose_instructions_are_counted_answers(figure):
    """What is asked under valgrind is answered by the floor, each answer as it must be."""
    pytest.importorskip("httptools")
    pytest.importorskip("websockets")
    asked = pytest.importorskip("benchmarks.bench_server_instructions")
    servers = pytest.importorskip("benchmarks.servers")
    traffic = asked.TRAFFIC[figure]
    with servers.serving("floor", traffic.application, "asyncio", log=traffic.log) as server:
        asked.ask(server.port, traffic, 20)


def test_start_and_end_of_a_server_are_not_counted(monkeypatch):
    asked = pytest.importorskip("benchmarks.bench_server_instructions")
    monkeypatch.setattr(asked, "count", lambda figure, side, loop, requests: 1_000_000 + 50 * requests)
    assert asked.per_request("hello", "floor", "uvloop") == 50


def test_pings_under_valgrind_are_answered():
    """A server may send one before its answer, which is what is compared."""
    asked = pytest.importorskip("benchmarks.bench_server_instructions")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"\x89\x02ab" + b"\x81\x03xyz")
        asked.take_message(ours, b"xyz")
        assert theirs.recv(100) == asked.masked(b"ab", b"\x8a")
