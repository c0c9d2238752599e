"""A network is put in eval mode for a while here, and each of its modules gets its own back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put back the training or eval mode of each module of ``model`` when the block ends.

    ``model.train(was_training)`` would also train what the caller froze, such as a batch norm.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
