"""Runs an example of the documentation; a gateway that it starts is stopped as soon as it is ready.

python documented_example.py EXAMPLE
"""

import runpy
import sys
import threading

from cyasgi.gateways.base import Gateway
from cyasgi.supervisor import Supervisor


def stopped_when_ready(run):
    """run(), with a thread beside it that waits until the server is ready and stops it."""

    def runs(self):
        ready = self.control.start

        def stop():
            if ready.exception() is None:
                self.stop()
                sys.stdout.write("served\n")

        stopper = threading.Thread(target=stop)
        stopper.start()
        try:
            run(self)
        finally:
            stopper.join()

    return runs


if __name__ == "__main__":
    for kind in (Gateway, Supervisor):
        kind.run = stopped_when_ready(kind.run)
    runpy.run_path(sys.argv[1], run_name="__main__")
