"""The data sets that can be asked for, as data (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tp_vgg.errors import BadInput


@dataclass(frozen=True)
class DataSetKind:
    """What is known of a data set before it is loaded by :func:`tp_vgg.data.load_data`."""

    local: bool = False
    """Images of the user's own, in ``--data-dir``: their fingerprint is part of a run directory's usual name."""
    small: bool = False
    """So few images that a training takes seconds: it has a recipe of its own."""


CATALOGUE: Mapping[str, DataSetKind] = {
    "cifar10": DataSetKind(),
    "folder": DataSetKind(local=True),
    "digits": DataSetKind(small=True),
}


def kind_of(name: str) -> DataSetKind:
    """Raises :class:`BadInput` for a name that is none."""
    if name not in CATALOGUE:
        raise BadInput(f"{name!r}: is not a data set; give one of {', '.join(CATALOGUE)}")
    return CATALOGUE[name]
