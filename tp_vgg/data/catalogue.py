"""The catalogue lists the data sets by name, as data.

This module does not import torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from tp_vgg.errors import BadInput, shown

IMAGE_SIZE = 32
"""Side in pixels to which images are brought, unless another one is asked for."""


@dataclass(frozen=True)
class DataSetKind:
    """A kind says what is known of a data set before :func:`tp_vgg.data.load_data` loads it."""

    local: bool = False
    """True if the images are the user's own, in ``--data-dir``.

    The default name of a run directory then contains their fingerprint."""
    classes: int = 0
    """Number of classes, if it is known without the images."""
    small: bool = False
    """True if there are so few images that training takes seconds.

    Some defaults, such as the recipe, then differ."""


CATALOGUE: Mapping[str, DataSetKind] = {
    "cifar10": DataSetKind(classes=10),
    "folder": DataSetKind(local=True),
    "digits": DataSetKind(classes=10, small=True),
}


def kind_of(name: str) -> DataSetKind:
    """Return the kind of the data set ``name``; raise :class:`BadInput` for an unknown name."""
    if not isinstance(name, str) or name not in CATALOGUE:
        word = name[:80].lower() if isinstance(name, str) else ""
        close = difflib.get_close_matches(word, CATALOGUE, 1)
        nearest = f" (nearest: {close[0]})" if close else ""
        raise BadInput(
            f"{shown(name)}: is not a data set; give one of {', '.join(CATALOGUE)}{nearest}"
        )
    return CATALOGUE[name]
