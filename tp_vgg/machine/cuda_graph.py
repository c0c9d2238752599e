"""CUDA graphs: work on a GPU that is recorded once and launched as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Call = Callable[[], object]


class Graph(Protocol):
    """``torch.cuda.CUDAGraph``, captured."""

    def replay(self) -> None: ...


@dataclass(frozen=True)
class Replay:
    """A captured CUDA graph, with the call that it was captured from.

    A graph holds addresses alone: once nothing else refers to the weights and inputs behind them, their memory is given to others.
    """

    graph: Graph
    captured: Call

    def __call__(self) -> None:
        self.graph.replay()


def capture_graph(call: Call, device: torch.device, repeats: int = 1, pool: Any = None) -> Call:
    """A CUDA graph on ``device`` of ``call``, ``repeats`` times, which is recorded and not run; in a ``pool`` of memory that several share, or
    with memory of its own.

    Whatever ``call`` makes ready when it is first made must be ready: make it before.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        # torch captures on one stream for the whole process, of the device that was current when it first did.
        usual = torch.cuda.graph.default_capture_stream
        here = usual is None or usual.device_index == torch.cuda.current_device()
        with torch.cuda.graph(graph, pool=pool, stream=None if here else torch.cuda.Stream(device)):
            for _ in range(repeats):
                call()
    return Replay(graph, call)
