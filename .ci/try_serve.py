"""Runs a command that starts a server and ends it again, as a person would.

    python .ci/try_serve.py --talk COMMAND --answer TEXT COMMAND

The first command talks to the server and must print the answer; the second serves until Ctrl-C. Both run in a shell, in
the current directory.
"""

import argparse
import os
import signal
import subprocess
import sys
import time

#: Seconds for the installation that the command may begin with, and for the end after Ctrl-C.
TO_START = 600.0
TO_END = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", help="serves until Ctrl-C")
    parser.add_argument("--talk", required=True, help="asks the server and prints the answer")
    parser.add_argument("--answer", required=True, help="what the answer must be")
    given = parser.parse_args()
    # A session of its own, so that Ctrl-C reaches the command and all it started, and not this script.
    served = subprocess.Popen(["bash", "-c", given.command], start_new_session=True)
    try:
        answer = ""
        deadline = time.monotonic() + TO_START
        while not answer and served.poll() is None and time.monotonic() < deadline:
            talked = subprocess.run(["bash", "-c", given.talk], capture_output=True, text=True, check=False)
            answer = talked.stdout.strip()
            time.sleep(0 if answer else 1)
        if answer != given.answer:
            print(f"the server answered {answer!r}; exit status so far: {served.poll()}")
            return 1
        print(f"answered: {answer}", flush=True)
        os.killpg(served.pid, signal.SIGINT)
        try:
            status = served.wait(TO_END)
        except subprocess.TimeoutExpired:
            print(f"still running {TO_END:.0f} s after Ctrl-C")
            return 1
        print(f"ended by Ctrl-C with status {status}")
        return 0 if status in (0, 128 + signal.SIGINT, -signal.SIGINT) else 1
    finally:
        if served.poll() is None:
            os.killpg(served.pid, signal.SIGKILL)
            served.wait()


if __name__ == "__main__":
    sys.exit(main())
