"""Several commands, one after the other, in each process that torchrun started: ``several.py JSON``, a list of their arguments.

The first that fails is the last, and gives the exit status.
"""

from __future__ import annotations

import json
import os
import sys

from tp_vgg.cli import execute


def main() -> int:
    for place, command in enumerate(json.loads(sys.argv[1])):
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(
            place
        )  # else the processes of one would meet in what another left
        status = execute(command)
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
