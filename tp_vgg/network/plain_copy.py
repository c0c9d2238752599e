"""A module that training code has wrapped, masked or cast is copied here as a plain one."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim.swa_utils import AveragedModel

from tp_vgg.errors import BadInput, printable
from tp_vgg.network.masks import remove_masks

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
_FLOATS = (torch.float64, torch.float16, torch.bfloat16)
"""The dtypes that are cast to float32."""


def inner_name(module: nn.Module) -> str | None:
    """Return the attribute that holds the module inside a wrapper; None if it is no wrapper."""
    if "_orig_mod" in module._modules:  # of torch.compile, whose import takes seconds
        return "_orig_mod"
    return "module" if isinstance(module, _WRAPPERS) else None


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside ``torch.compile``, ``DataParallel``, DDP and ``AveragedModel``."""
    while (name := inner_name(module)) is not None:
        module = module.get_submodule(name)
    return module


def plain_copy(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in eval mode and float32, of the module inside the wrappers.

    Masks of ``torch.nn.utils.prune``, parametrizations, weight norm and spectral norm are baked
    into plain tensors. Wrappers of modules inside are left out too. ``module`` is not changed.

    Raises :class:`BadInput` if a tensor has no values, or if something in the module can't be
    copied.
    """
    module = unwrapped(module)
    for name, part in module.named_modules():
        if inner_name(part) is None and _own_function(part) not in (None, type(part).forward):
            raise BadInput(
                f"{name or 'model'}: its forward was replaced by a function, which can't be saved; "
                "give the model as it was before"
            )
    memo: dict[int, Any] = {
        id(tensor): _on_cpu(tensor, name) for name, tensor in _tensors_of(module)
    }
    meta = getattr(module, "meta", None)
    if isinstance(meta, dict):
        memo[id(meta)] = dict(meta)
    before = dict(memo)
    try:
        for part in reversed(list(module.modules())):
            if inner_name(part) is not None:
                memo[id(part)] = copy.deepcopy(unwrapped(part), memo)
        duplicate: nn.Module = copy.deepcopy(module, memo)
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001  hooks may hold anything
        reason = printable(next(iter(str(error).splitlines()), type(error).__name__))[:100]
        raise BadInput(
            f"{_uncopied(module, before)}: can't be copied ({reason}); "
            "remove the hooks and attributes that hold it"
        ) from None
    for part in duplicate.modules():
        if _own_function(part) is not None:  # it is compiled, and bound to the original
            del part.__dict__["forward"]
    duplicate.eval()
    _bake(duplicate)
    return duplicate


def _uncopied(module: nn.Module, memo: dict[int, Any]) -> str:
    """Return the name of the first attribute or hook of ``module`` that can't be copied."""
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            try:
                copy.deepcopy(value, dict(memo))
            except Exception:  # noqa: BLE001  an attribute may be anything
                what = "a forward hook" if name.endswith("_hooks") else f"attribute {name}"
                return printable(f"{prefix or 'model'}: {what}")[:100]
    return "model: an attribute or hook"


def _own_function(part: nn.Module) -> Callable[..., Any] | None:
    """Return the function that replaces the ``forward`` of this object; None if there is none.

    Behind ``torch.compile`` it is the function that was compiled. A bound method is no function: it
    is copied together with its object.
    """
    forward = vars(part).get("forward")
    if forward is None or isinstance(forward, types.MethodType):
        return None
    method = getattr(forward, "_torchdynamo_orig_callable", forward)
    own = getattr(method, "__self__", None) is part
    function: Callable[..., Any] = method.__func__ if own else method
    return function


def _tensors_of(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of the modules with its name, those that no state dict holds too."""
    for prefix, part in module.named_modules():
        for values in (part._parameters, part._buffers, vars(part)):
            for name, value in values.items():
                if isinstance(value, torch.Tensor):
                    yield f"{prefix}.{name}" if prefix else name, value


def _on_cpu(tensor: torch.Tensor, name: str) -> torch.Tensor:
    if tensor.is_meta:
        raise BadInput(f"{name}: is on the meta device and has no values; load the weights first")
    value = tensor.detach()
    if value.layout is not torch.strided:
        value = value.to_dense()
    dtype = torch.float32 if value.dtype in _FLOATS else value.dtype
    value = value.to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(value, requires_grad=tensor.requires_grad)
    return value


@torch.no_grad()
def _bake(module: nn.Module) -> None:
    remove_masks(module)
    for part in list(module.modules()):
        for key, hook in list(part._forward_pre_hooks.items()):
            if isinstance(hook, WeightNorm | SpectralNorm):
                hook.remove(part)
                del part._forward_pre_hooks[key]
        if parametrize.is_parametrized(part):
            _bake_parametrizations(part)


def _bake_parametrizations(part: nn.Module) -> None:
    """Replace the parametrizations of a copied module by their values.

    torch's ``remove_parametrizations`` changes the module's class, which the original shares.
    """
    parametrizations = cast(nn.ModuleDict, part.parametrizations)
    values = {name: getattr(part, name).detach().clone() for name in parametrizations}
    part.__class__ = parametrize.type_before_parametrizations(part)
    del part._modules["parametrizations"]
    for name, value in values.items():
        part.register_parameter(name, nn.Parameter(value))
