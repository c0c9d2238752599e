"""These functions build a VGG from weights that tp_vgg did not write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isclose
from typing import Any

import torch

from tp_vgg.data.split import CIFAR10_MEAN, CIFAR10_STD
from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.files.checks import triple
from tp_vgg.network.foreign import foreign_vgg
from tp_vgg.network.network import Meta, Network
from tp_vgg.network.state_dict import filled_network
from tp_vgg.network.unwrapped import state_dict_in
from tp_vgg.network.vgg.fold import can_fold_head, fold_head_columns


def imagenet_weights(arch: str) -> tuple[dict[str, torch.Tensor], Meta]:
    """Return torchvision's ImageNet state dict of ``arch``, and its mean, std and source.

    Torchvision downloads the weights unless it has them. Raises :class:`WorkFailed` with a one-line
    reason if the download fails.
    """
    from torchvision import models

    weights = models.get_model_weights(arch)["IMAGENET1K_V1"]
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise WorkFailed(
            f"--weights imagenet: download from torchvision failed ({reason}); "
            "give a file with --weights PATH, or give --weights none"
        ) from None
    transforms = weights.transforms()
    return state, {
        "mean": list(transforms.mean),
        "std": list(transforms.std),
        "source": f"torchvision {weights}",
    }


def from_state_dict(
    raw: object,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
    in_order: bool = True,
) -> Network:
    """Return the network of a plain state dict, in eval mode.

    ``raw`` is the state dict or a dict around it
    (:func:`~tp_vgg.network.unwrapped.state_dict_in`). The spec follows from names and shapes
    (:func:`~tp_vgg.network.foreign.foreign_vgg`). ``mean`` and ``std`` are those of the file, else
    CIFAR-10's, unless they are given; the image size is 32, unless it is given. A head whose 7×7
    pool only repeats a 1×1 map is folded (:func:`fold_head_columns`). ``meta["notes"]``
    says all that was done or assumed.

    Raises :class:`BadInput` if this is not the state dict of a VGG, or if ``mean`` and ``std``
    contradict those in the file.
    """
    contents = state_dict_in(raw)
    vgg = foreign_vgg(contents.state, in_order=in_order)
    spec = replace(vgg.spec, image_size=32 if image_size is None else image_size)
    inside = vgg.normalisation or (contents.mean, contents.std)
    meta, notes = _normalisation(mean, std, *inside)
    if image_size is None:
        notes.append("image size: 32 is assumed; give image_size (--image-size) if it was another")
    else:
        notes.append(f"image size: {image_size}, as given")
    notes += [*contents.notes, *vgg.notes]
    if len(contents.classes) == spec.num_classes:
        meta["classes"] = list(contents.classes)
        notes.append("names of the classes: taken from the file")
    if can_fold_head(spec):
        first = f"{spec.linear_names[0]}.weight"
        vgg.state[first] = fold_head_columns(vgg.state[first])
        spec = replace(spec, pool=1)
        notes.append(
            f"head folded: {first} summed over the 49 equal columns of its 7x7 pool "
            f"(exact at {spec.image_size}x{spec.image_size})"
        )
    return filled_network(spec, vgg.state, {**meta, "notes": notes})


def _normalisation(
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    own_mean: list[float] | None,
    own_std: list[float] | None,
) -> tuple[Meta, list[str]]:
    """Return the mean and std of the images as meta data, and a note on where they come from.

    ``own_mean`` and ``own_std`` are those of the file, if it has any.
    """
    own = None if own_mean is None or own_std is None else {"mean": own_mean, "std": own_std}
    if own is not None:
        for name, value in own.items():
            triple(f"{name} in the file", value, positive=name == "std")
        if max(own_mean or ()) > 1:
            raise BadInput(
                f"mean in the file: {_listed(own['mean'])} is of pixels in 0..255; "
                "divide mean and std by 255 and save the state_dict alone"
            )
    given: Meta = {} if mean is None or std is None else {"mean": list(mean), "std": list(std)}
    if own is not None:
        refuse_contradiction(given, own)
        meta, origin = dict(own), "taken from the file"
    elif given:
        meta, origin = given, "as given"
    else:
        meta = {"mean": list(CIFAR10_MEAN), "std": list(CIFAR10_STD)}
        return meta, [
            f"normalisation: CIFAR-10's is assumed (mean {_listed(CIFAR10_MEAN)}, std "
            f"{_listed(CIFAR10_STD)}); give mean and std (--mean, --std) if it was trained with "
            "others"
        ]
    return meta, [
        f"normalisation: mean {_listed(meta['mean'])}, std {_listed(meta['std'])}, {origin}"
    ]


def refuse_contradiction(given: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise :class:`BadInput` if a given value is not the one that the file itself has.

    Values that differ by no more than float32 rounds are the same.
    """
    for name, value in given.items():
        if name in own and not _close(own[name], value):
            raise BadInput(
                f"{name}: {_listed(value)} given, but the file says {_listed(own[name])}; "
                f"leave {name} (--{name.replace('_', '-')}) out"
            )


def _close(own: Any, given: Any) -> bool:
    if isinstance(own, list) and isinstance(given, list):
        return all(isclose(a, b, rel_tol=1e-6) for a, b in zip(own, given, strict=True))
    return bool(own == given)


def _listed(value: Any) -> str:
    """Return numbers for a message, such as ``0.5,0.5,0.5``."""
    if not isinstance(value, list | tuple):
        return str(value)
    return ",".join(f"{number:g}" for number in value)
