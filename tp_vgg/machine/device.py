"""The option ``--device`` is turned into a torch device here."""

from __future__ import annotations

import torch

from tp_vgg.errors import BadInput, shown


def pick_device(name: str | torch.device) -> torch.device:
    """Return the torch device called ``name``; ``auto`` is CUDA if available, else the CPU.

    A torch device stands for its name. Raises :class:`BadInput` if ``name`` is not auto, cpu, cuda
    or cuda:N, or if this machine does not have that device.
    """
    if not isinstance(name, str | torch.device):
        raise BadInput(f"device: must be auto, cpu, cuda or cuda:N, got {shown(name)}")
    name = str(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise BadInput(f"--device: {shown(name)} is not one of auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(
            f"--device: {name}: this machine has {torch.cuda.device_count()} CUDA devices; "
            "use --device cpu"
        )
    return device
