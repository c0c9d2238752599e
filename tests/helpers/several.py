"""Several commands, one after the other, in each process that torchrun started: ``several.py JSON``, a list of their arguments.

The first that fails is the last, and gives the exit status.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from torch import distributed

from tp_vgg.cli import execute

INIT = distributed.init_process_group


def meet_anew(place: int) -> None:
    """Let the processes of the next command meet where those of another have left nothing."""

    def init(backend: str, **options: Any) -> None:
        met = distributed.TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False
        )
        where = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
        INIT(backend, store=distributed.PrefixStore(str(place), met), **where, **options)

    distributed.init_process_group = init


def main() -> int:
    for place, command in enumerate(json.loads(sys.argv[1])):
        if place:
            meet_anew(place)
        status = execute(command)
        sys.stdout.flush()  # a process that refuses the next command is the end of the others
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
