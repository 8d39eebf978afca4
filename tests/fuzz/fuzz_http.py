"""HTTP's wire module under coverage-guided fuzzing: accept, or refuse by an HTTPError, however the bytes are cut.

Run it by hand, with atheris (from PyPI, for Linux and macOS) installed beside cyasgi[test]:

    python tests/fuzz/fuzz_http.py -max_total_time=600 [DIRECTORY FOR WHAT IT FINDS WORTH KEEPING]

It begins with the requests of `http_corpus_heads`. What it checks is what `test_http_wire_properties` does.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
with atheris.instrument_imports(include=["cyasgi.wire"]):
    from support.http_request_reader import SEEDS, check_accepted, read, same


def one_input(data: bytes) -> None:
    """One stream of bytes, whole and byte by byte."""
    whole = read([data])
    check_accepted(whole)
    same(whole, read([data[index : index + 1] for index in range(len(data))]))


def main() -> None:
    with tempfile.TemporaryDirectory() as seeds:
        for number, seed in enumerate(SEEDS):
            Path(seeds, str(number)).write_bytes(seed)
        directories = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
        # The first directory is what is added to.
        atheris.Setup([sys.argv[0], "-max_len=2000", *options, *directories, seeds], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
