"""``python -m cyasgi``: the command."""

import sys

from .cli import script

if __name__ == "__main__":
    sys.exit(script())
