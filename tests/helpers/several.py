"""Run several commands, one after the other, in each process that torchrun started.

``several.py JSON`` takes a list of the arguments of each command. The first command that fails is
the last to run, and its exit status is returned.
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
    """Give the processes of the next command a store without keys of earlier commands."""

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
        # torchrun ends all processes as soon as one of them refuses the next command.
        sys.stdout.flush()
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
