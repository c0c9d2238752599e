"""Channel removal in place, by torch-pruning's DependencyGraph, checked and proved on every call.

Nothing else in tp_vgg imports torch_pruning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from tp_vgg.criteria import CRITERIA, check_importance
from tp_vgg.data import Normalisation, Split, stratified
from tp_vgg.device import exact_fp32
from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.model import VGG, activation_after, empty, prunable_layers, realised_spec
from tp_vgg.ratios import Plan, resolve
from tp_vgg.spec import VGGSpec
from tp_vgg.unstructured import is_masked

PROOF_IMAGES = 16
PROOF_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Proof:
    """The pruned logits against those of the model before, with the same channels zeroed after ReLU."""

    images: int
    difference: float
    """max |Δ logit| in fp64."""
    scale: float
    """max |logit| in fp64."""

    @property
    def holds(self) -> bool:
        return self.difference <= PROOF_TOLERANCE * self.scale  # false for NaN


@dataclass(frozen=True)
class Shrunk:
    """What :func:`shrink` did: indices kept in each pruned layer (into the model just before), and the proof."""

    kept: dict[str, list[int]]
    proof: Proof


def prune_structured(
    model: VGG, ratios: Plan | Mapping[str, float], *, importance: str = "l1", round_to: int = 1, seed: int = 0
) -> Shrunk:
    """Remove ``floor(ratio · width + 0.5)`` channels of each named layer of ``model``, in place: :func:`shrink` with
    a plan for a target and seeded noise for the proof's images. Raises as :func:`shrink` and :func:`resolve` do.
    """
    plan = ratios if isinstance(ratios, Plan) else Plan.of(ratios, "ratios")
    size = model.spec.image_size
    noise = torch.randn(PROOF_IMAGES, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return shrink(model, resolve(plan, model.spec, round_to), noise, importance, seed)


def shrink(model: VGG, target: VGGSpec, images: torch.Tensor, importance: str = "l1", seed: int = 0) -> Shrunk:
    """Remove channels of ``model``, in place, until it has the widths of ``target``.

    ``images``: normalised floats [N, 3, S, S] for the equivalence proof (the first 16 are used).
    ``taylor`` and ``hessian`` read the gradients that :func:`accumulate_gradients` (or any backward pass) left in the parameters. All layers are ranked on the weights as they
    come, then pruned; ties keep the lower index. ``model.kept`` is brought up to date.

    Raises :class:`BadInput` where the criterion does not fit the network, :class:`WorkFailed` where torch-pruning did not
    reach the target widths or the proof fails: the model is then not to be used.
    """
    _refuse_masks(model)
    before, reference = model.spec, double_copy(model)
    kept = remove_channels(model, target, importance, seed)
    proof = prove(reference, double_copy(model), kept, images)
    if not proof.holds:
        raise WorkFailed(
            f"equivalence proof failed: logits differ by {proof.difference:.3g} at a scale of {proof.scale:.3g} "
            f"(allowed {PROOF_TOLERANCE:g} of it); nothing is kept"
        )
    _record_kept(model, before, kept)
    return Shrunk(kept, proof)


def remove_channels(model: VGG, target: VGGSpec, importance: str = "l1", seed: int = 0) -> dict[str, list[int]]:
    """:func:`shrink` without its proof: one graph, every layer ranked, then pruned. Returns the kept indices by layer.

    Raises :class:`WorkFailed` unless the realised widths are the target's (torch-pruning skips silently).
    """
    graph = _graph(model)
    scores = _rank(graph, model, model.spec.narrowed(target), importance, seed)
    kept = {name: top(score, target.prunable[name]) for name, score in scores.items()}
    _remove_to(graph, model, kept, target)
    return kept


def keep_channels(model: VGG, kept: Mapping[str, list[int]]) -> None:
    """Remove all channels of the named layers but the ``kept`` ones (sorted indices), in place. Raises as :func:`remove_channels` does."""
    target = model.spec.with_widths({name: len(indices) for name, indices in kept.items()})
    narrowed = model.spec.narrowed(target)
    _remove_to(_graph(model), model, {name: indices for name, indices in kept.items() if name in narrowed}, target)


def _remove_to(graph: Any, model: VGG, kept: Mapping[str, list[int]], target: VGGSpec) -> None:
    _remove(graph, model, kept)
    realised = realised_spec(model).prunable
    for name, width in target.prunable.items():
        if realised[name] != width:
            raise WorkFailed(
                f"{name}: torch-pruning left {realised[name]} channels where {width} were asked for; nothing is kept"
            )
    model.spec = target


def rank(model: VGG, layers: list[str], importance: str = "l1", seed: int = 0) -> dict[str, torch.Tensor]:
    """Score [width] of every channel of ``layers`` (float, higher is kept), each on its full-width group."""
    return _rank(_graph(model), model, layers, importance, seed)


def _rank(graph: Any, model: VGG, layers: list[str], importance: str, seed: int) -> dict[str, torch.Tensor]:
    import torch_pruning as tp

    check_importance(importance, model.spec, layers)
    scorer = getattr(tp.importance, CRITERIA[importance].scorer)(**CRITERIA[importance].options)
    scores = {}
    with torch.random.fork_rng(devices=[]):
        for place, (name, layer) in enumerate(prunable_layers(model)):
            if name in layers:
                torch.manual_seed(
                    seed + 1_000_003 * place
                )  # a layer's random scores are the same whatever else is ranked
                group = graph.get_pruning_group(layer, _prune_out(tp, layer), list(range(layer.weight.shape[0])))
                score = scorer(group)
                if score is None or score.shape != (layer.weight.shape[0],) or not score.isfinite().all():
                    raise WorkFailed(
                        f"{name}: importance {importance} gave no finite score for every channel; nothing is kept"
                    )
                scores[name] = score.detach().cpu()
    return scores


def double_copy(model: VGG) -> VGG:
    """An fp64 copy on the CPU, in eval mode; weights are copied once, straight into fp64."""
    copy = empty(model.spec)
    state = {name: v.detach().to("cpu", torch.float64, copy=True) for name, v in model.state_dict().items()}
    copy.load_state_dict(state, assign=True)
    return copy.eval()


def accumulate_gradients(
    model: nn.Module,
    split: Split,
    normalisation: Normalisation,
    images: int = 512,
    *,
    squared: bool = False,
    label: str = "",
) -> None:
    """Leave the loss's gradient over the first ``images`` of a stratified draw in the parameters, in eval mode; with ``squared`` the mean
    over images of each one's gradient squared (torch-pruning's ``accumulate_grad`` keeps only the last image's: its dictionary is asked
    for names and holds parameters). ``label``: of the progress bar; none without."""
    sample = split.take(stratified(split.labels.cpu().numpy(), images, 0))
    was_training = model.training
    model.eval()
    model.zero_grad(set_to_none=True)
    squares: dict[str, torch.Tensor] = {}
    bar = tqdm(desc=label, total=len(sample), unit="img", leave=False, disable=None if label else True)
    with exact_fp32(), bar:
        for block, labels in sample.blocks(1 if squared else 128):
            (
                F.cross_entropy(model(normalisation(block)), labels, reduction="sum") / len(sample) ** (not squared)
            ).backward()
            if squared:
                for name, parameter in model.named_parameters():
                    assert parameter.grad is not None
                    squares[name] = parameter.grad.square() / len(sample) + squares.get(name, 0)
                model.zero_grad(set_to_none=True)
            bar.update(len(labels))
    for name, square in squares.items():
        model.get_parameter(name).grad = square
    model.train(was_training)


def prove(before: VGG, after: VGG, kept: Mapping[str, list[int]], images: torch.Tensor) -> Proof:
    """Compare two fp64 networks' logits, the removed channels of ``before`` zeroed after its ReLUs."""
    sample = images[:PROOF_IMAGES].detach().to("cpu", torch.float64)
    hooks = [
        activation_after(before, name).register_forward_hook(_zero_except(indices)) for name, indices in kept.items()
    ]
    try:
        with torch.inference_mode():
            expected, found = before(sample), after(sample)
    finally:
        for hook in hooks:
            hook.remove()
    return Proof(len(sample), float((expected - found).abs().max()), float(expected.abs().max()))


def _record_kept(model: VGG, before: VGGSpec, kept: Mapping[str, list[int]]) -> None:
    """Note in ``model.kept`` which channels of the dense baseline are left, through earlier prunings too."""
    everything = {name: list(range(width)) for name, width in before.prunable.items()}
    earlier = {**everything, **model.kept}
    dense = {**before.prunable, **model.meta.get("dense_widths", {})}
    for name, indices in model.kept.items():
        dense[name] = max(dense[name], indices[-1] + 1)  # a file that does not say how wide it was
    model.kept = {name: [earlier[name][i] for i in kept.get(name, everything[name])] for name in everything}
    model.meta = {**model.meta, "dense_widths": dense}


def top(score: torch.Tensor, count: int) -> list[int]:
    """Sorted indices of the ``count`` highest scores; of equal ones the lower index."""
    order = torch.argsort(score, descending=True, stable=True)[:count]
    return sorted(order.tolist())


def _remove(graph: Any, model: VGG, kept: Mapping[str, list[int]]) -> None:
    import torch_pruning as tp

    for name, layer in prunable_layers(model):
        if name not in kept:
            continue
        gone = sorted(set(range(layer.weight.shape[0])) - set(kept[name]))
        group = graph.get_pruning_group(layer, _prune_out(tp, layer), gone)
        if not graph.check_pruning_group(group):
            raise WorkFailed(f"{name}: torch-pruning refuses to remove {len(gone)} channels; nothing is kept")
        group.prune()


def _refuse_masks(model: VGG) -> None:
    if any(is_masked(module) for module in model.modules()):
        raise BadInput("the model has weight masks; remove them (torch.nn.utils.prune.remove) before removing channels")


def _graph(model: VGG) -> Any:
    """torch-pruning's graph of ``model``. Tracing needs gradients, and leaves eval mode: mode and flags are put back."""
    import torch_pruning as tp

    training = model.training
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    size = model.spec.image_size
    device = next(model.parameters()).device
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            return tp.DependencyGraph().build_dependency(
                model, example_inputs=torch.zeros(1, 3, size, size, device=device)
            )
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        model.train(training)


def _prune_out(tp: Any, layer: nn.Conv2d | nn.Linear) -> Any:
    return tp.prune_conv_out_channels if isinstance(layer, nn.Conv2d) else tp.prune_linear_out_channels


def _zero_except(indices: list[int]) -> Callable[[nn.Module, Any, torch.Tensor], torch.Tensor]:
    def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        keep = output.new_zeros(output.shape[1])
        keep[indices] = 1
        return output * keep.view(1, -1, *[1] * (output.ndim - 2))

    return hook
