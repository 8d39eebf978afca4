"""How much the tests try: CYASGI_EFFORT.

1, the default, and 2, what CI does once, are the same short run every time. Anything above looks further, at random.
"""

from __future__ import annotations

import os

EFFORT = int(os.environ.get("CYASGI_EFFORT", "1"))
