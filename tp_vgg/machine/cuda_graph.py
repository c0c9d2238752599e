"""A CUDA graph records GPU work once and launches all of it with a single call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Call = Callable[[], object]


class Graph(Protocol):
    """A Graph is a captured ``torch.cuda.CUDAGraph``, or a stand-in for one."""

    def replay(self) -> None:
        """Launch the recorded work on the current stream."""


@dataclass(frozen=True)
class Replay:
    """A Replay launches a captured CUDA graph and keeps alive the call that was captured.

    A graph stores memory addresses only. Without a reference to the call, the memory of its weights
    and inputs could be freed and reused for other tensors.
    """

    graph: Graph
    captured: Call

    def __call__(self) -> None:
        """Launch the graph."""
        self.graph.replay()


def capture_graph(call: Call, device: torch.device, repeats: int = 1, pool: Any = None) -> Call:
    """Record ``repeats`` runs of ``call`` in one CUDA graph on ``device``; return its replay.

    Recording executes nothing on the GPU. ``pool`` is graph memory that several graphs share; by
    default the graph gets memory of its own. ``call`` must have run once before, so that nothing is
    left that it initialises on first use.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        # torch has one default capture stream per process. It belongs to the device that was
        # current at the first capture, so a graph on another device needs a stream of its own.
        default = torch.cuda.graph.default_capture_stream
        usable = default is None or default.device_index == torch.cuda.current_device()
        stream = None if usable else torch.cuda.Stream(device)
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            for _ in range(repeats):
                call()
    return Replay(graph, call)
