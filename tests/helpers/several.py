"""Several commands, one after the other, in each process that torchrun started: ``several.py JSON``, a list of their arguments.

The first that fails is the last, and gives the exit status.
"""

from __future__ import annotations

import json
import sys

from tp_vgg.cli import execute

if __name__ == "__main__":
    sys.exit(next((status for status in map(execute, json.loads(sys.argv[1])) if status), 0))
