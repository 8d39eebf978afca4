"""Side by side: asgiref's StatelessServer, cyasgi's pure and Cython twins, and a floor below them.

    python -m benchmarks --quick              a few minutes: does it work, and roughly what comes of it?
    python -m benchmarks                      about an hour: every question at the sizes its goals name
    python -m benchmarks --full               many hours: up to a million live instances, collector on and off
    python -m benchmarks evict wake           some questions only (--list names them)
    python -m benchmarks compare A B          what changed between two runs, in ratios
    python -m benchmarks draw DIRECTORY       the charts of a run again, from its results.json
    python -m pytest benchmarks -o python_files='bench_*.py'      the same work under pytest-benchmark

Method. One file a question. What can be measured in one process is: all sides in turn, round after round, each round
starting with another side and every other one backwards, so that a slow spell of the machine hits every side alike, in
three interpreters one after the other; what is taken is the CPU time of the process, which on an idle machine is the
time that passes. What cannot (memory, CPU share, servers) runs in an interpreter of its own for each side, the sides
alternating. Making, ending and awaiting instances is left out of the time unless it is the question.

Figures are medians of at least seven rounds, with the quartiles beside them, except where each round needs an
interpreter of its own and the run is a --quick one (a single round) or a million instances are made in it (three),
and where what is counted is the same each time (bytes, instructions). Every ratio is taken within one run. The
garbage collector is on, with the interpreter's own thresholds even where cyasgi's run() raises them; servers that are
started by their commands have what these set. With --full, what is measured in one process is measured with the
collector off as well. A floor is as little as can do the same work. Of servers it is told whether they or the load
generator were what had no time left.
"""
