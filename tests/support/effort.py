"""How much the tests try: CYASGI_EFFORT.

1, the default, and 2, what CI does once, are the same short run every time. From 2 on, the
commands that tests start run in Python's development mode, and what takes a crowd takes a larger one. Anything above 2
looks further, at random.
"""

from __future__ import annotations

import os

EFFORT = int(os.environ.get("CYASGI_EFFORT", "1"))
