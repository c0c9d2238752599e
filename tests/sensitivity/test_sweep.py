"""The sweep engine agrees with the naive loop on trained weights.

It journals, resumes, screens and shares the work over ranks without changing a count.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.networks import SMALL, WIDE, variants
from helpers.sweeps import interrupted

import tp_vgg
from tp_vgg.data.split import Normalisation, Split
from tp_vgg.errors import BadInput
from tp_vgg.evaluation.evaluate import predictions
from tp_vgg.machine.distributed import ALONE, Ranks
from tp_vgg.machine.precision import screening_pays
from tp_vgg.network.vgg.model import VGG
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.gradients import accumulate_gradients
from tp_vgg.pruning.ratios import Plan, resolve
from tp_vgg.pruning.structured import prune_structured, remove_channels
from tp_vgg.pruning.unstructured import prune_unstructured
from tp_vgg.sensitivity import engine as engine_module
from tp_vgg.sensitivity import levels as points
from tp_vgg.sensitivity import screening
from tp_vgg.sensitivity.engine import Engine
from tp_vgg.sensitivity.hit_table import HitTable
from tp_vgg.sensitivity.question import SweepQuestion
from tp_vgg.sensitivity.resolved import ResolvedSweep
from tp_vgg.sensitivity.screening import MOST_REDONE, SAFETY, Classifier, bounded
from tp_vgg.sensitivity.sweep import run, sweep
from tp_vgg.sensitivity.table import Sensitivity

LEVELS = (0.0, 0.3, 0.5, 0.96)
"""0.96 leaves one channel of 12 to 36: the largest legal level for the second thinnest layer."""


def naive(
    model: VGG, split: Split, kind: Kind, layer: str, level: float, **options: object
) -> tuple[int, VGG]:
    """Evaluate a pruned deep copy of the whole network."""
    pruned = copy.deepcopy(model)
    for copied, original in zip(pruned.parameters(), model.parameters(), strict=True):
        copied.grad = original.grad
    if kind == "structured":
        remove_channels(pruned, resolve(Plan.of({layer: level}, "level"), pruned.spec), **options)
    else:
        prune_unstructured(pruned, {layer: level})
    hits = predictions(pruned, split, Normalisation.of(model.meta)) == split.labels
    return int(hits.sum()), pruned


def check_exact(
    model: VGG, split: Split, kind: Kind, levels: tuple[float, ...], layers: tuple[str, ...]
) -> None:
    """Check that the counts are equal at every point and the logits agree to 1e-5 of the largest.

    Sums in another order may move a near-tie. So 2 images in 10,000 may differ: none of so few.
    """
    table = sweep(model, split, kind, levels=levels, layers=layers, precision="fp32")
    resolved = ResolvedSweep.of(SweepQuestion(kind, levels, layers, precision="fp32"), model)
    engine = Engine(model, split, resolved, ALONE)
    images = Normalisation.of(model.meta)(split.images)
    for layer in layers:
        logits = engine.logits(layer)
        for place, point in enumerate(table.of_layer(layer)):
            correct, pruned = naive(model, split, kind, layer, point.ratio)
            assert abs(point.correct - correct) <= 2 * len(split) // 10_000, point
            with torch.inference_mode():
                expected = pruned(images)
            assert (logits[place] - expected).abs().max() <= 1e-5 * expected.abs().max(), point


VARIANTS = variants(WIDE)


QUICK_VARIANTS = ("bn-hidden", "bn-unfolded", "plain-linear")
"""Each kind of head, with and without batch norm; CI runs the others as slow ones."""


@pytest.mark.parametrize("kind", ["structured", "unstructured"])
@pytest.mark.parametrize(
    "variant",
    [
        name if name in QUICK_VARIANTS else pytest.param(name, marks=pytest.mark.slow)
        for name in VARIANTS
    ],
)
def test_counts_equal_the_naive_loops(variant: str, kind: Kind, trained, digits) -> None:
    model = trained(VARIANTS[variant])
    few = replace(digits.test, images=digits.test.images[:60], labels=digits.test.labels[:60])
    dense = int((predictions(model, digits.test, digits.normalisation) == digits.test.labels).sum())
    assert dense > 0.4 * len(digits.test)
    check_exact(model, few, kind, LEVELS, tuple(model.spec.prunable))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["structured", "unstructured"])
@pytest.mark.parametrize("head", ["torchvision", "linear"])
@pytest.mark.parametrize("arch", ["vgg11_bn", "vgg11"])
def test_counts_equal_the_naive_loops_at_full_width(
    arch: str, head: str, kind: Kind, trained, digits
) -> None:
    model = trained(VGGSpec.preset(arch, head), epochs=1)
    few = replace(digits.test, images=digits.test.images[:60], labels=digits.test.labels[:60])
    check_exact(model, few, kind, (0.0, 0.5, 0.99), model.spec.conv_names)


def test_the_dense_model_and_the_statistics(trained, digits) -> None:
    model = trained(WIDE)
    table = sweep(model, digits.test, "structured", levels=(0.0, 0.5), precision="fp32")
    dense = predictions(model, digits.test, digits.normalisation) == digits.test.labels
    assert table.baseline.correct == int(dense.sum())
    assert table.layers == WIDE.conv_names
    for point in table.points:
        assert point.n == len(digits.test)
        assert point.low <= point.accuracy <= point.high
        assert point.drop_low <= point.drop <= point.drop_high
        assert point.drop == pytest.approx(table.baseline.accuracy - point.accuracy)
        assert point.removed == round(point.ratio * WIDE.prunable[point.layer])
    assert {point.drop for point in table.points if point.ratio == 0} == {0.0}
    assert Sensitivity.from_dict(json.loads(json.dumps(table.to_dict()))) == table


@pytest.mark.parametrize("importance", ["l2", "bn", "taylor", "hessian", "fpgm", "random"])
def test_every_importance_ranks_as_a_real_prune_does(importance: str, trained, digits) -> None:
    model = copy.deepcopy(trained(WIDE))
    if importance in ("taylor", "hessian"):
        accumulate_gradients(model, digits.val, digits.normalisation)
    layers = ("features.4", "features.11", "features.25")
    table = sweep(
        model,
        digits.test,
        "structured",
        levels=(0.5,),
        layers=layers,
        importance=importance,
        seed=3,
    )
    for point in table.points:
        assert (
            point.correct
            == naive(
                model, digits.test, "structured", point.layer, 0.5, importance=importance, seed=3
            )[0]
        )


def test_blocks_chunks_and_memory_change_nothing(
    trained, digits, monkeypatch, tmp_path: Path
) -> None:
    model = trained(WIDE)
    whole = sweep(model, digits.test, "unstructured", levels=(0.5, 0.9))
    monkeypatch.setattr(engine_module, "free_memory", lambda _device: 1)
    journal = tmp_path / "journal.jsonl"
    assert sweep(model, digits.test, "unstructured", levels=(0.5, 0.9), journal=journal) == whole
    starts = {json.loads(line).get("start") for line in journal.read_text().splitlines()[1:]}
    assert starts == {0, 250}


def test_an_interrupted_sweep_goes_on_where_it_was(
    trained, digits, monkeypatch, tmp_path: Path
) -> None:
    model, journal = trained(WIDE), tmp_path / "journal.jsonl"
    straight = sweep(model, digits.test, "structured", levels=(0.2, 0.8), precision="fp32")
    with monkeypatch.context() as patch:
        interrupted(patch, after=4)
        with pytest.raises(KeyboardInterrupt, match="6 of 17 points are kept"):
            sweep(
                model,
                digits.test,
                "structured",
                levels=(0.2, 0.8),
                precision="fp32",
                journal=journal,
            )
    assert len(journal.read_text().splitlines()) == 1 + 3 * 2
    with journal.open("a") as file:
        # A line truncated by a power failure.
        file.write('{"layer": "features.11", "ratio": 0.2, "hi')
    evaluated: list[str] = []
    levels = Engine._levels
    monkeypatch.setattr(
        Engine, "_levels", lambda *a: evaluated.append(a[0]._exact.layers[a[2]].name) or levels(*a)
    )
    assert (
        sweep(
            model, digits.test, "structured", levels=(0.2, 0.8), precision="fp32", journal=journal
        )
        == straight
    )
    assert evaluated == list(WIDE.conv_names[3:])
    evaluated.clear()
    assert (
        sweep(
            model, digits.test, "structured", levels=(0.2, 0.8), precision="fp32", journal=journal
        )
        == straight
    )
    assert evaluated == []


def test_resuming_in_other_chunks_redoes_and_recounts_nothing(
    trained, digits, monkeypatch, tmp_path: Path
) -> None:
    model, path = trained(WIDE), tmp_path / "journal.jsonl"
    monkeypatch.setitem(engine_module.SWEEP_BLOCK, "cpu", 100)
    options = {
        "levels": (0.5, 0.9),
        "layers": ("features.15", "features.25"),
        "precision": "screened",
    }
    straight = sweep(model, digits.test, "structured", **options)
    assert sum(point.redone for point in straight.points) > 0
    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "free_memory", lambda _device: 1)
        assert sweep(model, digits.test, "structured", journal=path, **options) == straight
    lines = path.read_text().splitlines()
    for kept in (1, 2, 3, 6, 8, len(lines)):
        path.write_text("\n".join([*lines[:kept], ""]))
        assert sweep(model, digits.test, "structured", journal=path, **options) == straight, kept
        assert sweep(model, digits.test, "structured", journal=path, **options) == straight, kept


def test_lines_that_are_not_ours_are_work_to_do_again(trained, digits, tmp_path: Path) -> None:
    model, path = trained(WIDE), tmp_path / "journal.jsonl"
    options = {"levels": (0.5,), "layers": ("features.25",), "journal": path}
    straight = sweep(model, digits.test, "structured", **options)
    head, dense, point = path.read_text().splitlines()
    good = json.loads(dense)
    for wrong in (
        {"layer": "features.1"}, {"ratio": 0.4}, {"ratio": [1]}, {"hits": "xyz"}, {"hits": "ff"},
        {"hits": 7}, {"n": 1000}, {"n": "x"}, {"n": None}, {"redone": -1}, {"redone": 10**30},
        {"redone": float("inf")}, {"start": 1}, {"start": -1}, {"redone": "x"}, {"redone": None},
    ):  # fmt: skip
        path.write_text("\n".join([head, json.dumps({**good, **wrong}), point, ""]))
        assert sweep(model, digits.test, "structured", **options) == straight, wrong


def test_an_old_result_is_never_met(trained, digits, few_digits) -> None:
    model = trained(WIDE)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_submodule("features.0").weight[0, 0, 0, 0] += 1e-6
    shifted = copy.deepcopy(model)
    shifted.meta["mean"][0] += 0.1
    image = digits.test.images.clone()
    image[0, 0, 0, 0] ^= 1
    label = digits.test.labels.clone()
    label[0] = (label[0] + 1) % 10
    base = ResolvedSweep.of(SweepQuestion("structured", precision="fp32"), model)
    keys = [
        base.key(model, digits.test),
        base.key(other, digits.test),
        base.key(shifted, digits.test),
        base.key(model, digits.val),
        base.key(model, few_digits.test),
        base.key(model, Split(image, digits.test.labels)),
        base.key(model, Split(digits.test.images, label)),
        ResolvedSweep.of(SweepQuestion("unstructured", precision="fp32"), model).key(
            model, digits.test
        ),
        ResolvedSweep.of(
            SweepQuestion("structured", levels=(0.1, 0.2), precision="fp32"), model
        ).key(model, digits.test),
        ResolvedSweep.of(
            SweepQuestion("structured", layers=("features.0",), precision="fp32"), model
        ).key(model, digits.test),
        ResolvedSweep.of(SweepQuestion("structured", importance="l2", precision="fp32"), model).key(
            model, digits.test
        ),
        ResolvedSweep.of(SweepQuestion("structured", seed=1, precision="fp32"), model).key(
            model, digits.test
        ),
        ResolvedSweep.of(SweepQuestion("structured", precision="bf16"), model).key(
            model, digits.test
        ),
        ResolvedSweep.of(SweepQuestion("structured", precision="screened"), model).key(
            model, digits.test
        ),
    ]
    assert len(set(keys)) == len(keys)
    assert base.key(copy.deepcopy(model), digits.test) == keys[0]


def test_gradients_are_part_of_a_taylor_sweeps_key(trained, digits) -> None:
    model = copy.deepcopy(trained(WIDE))
    resolved = ResolvedSweep.of(
        SweepQuestion("structured", importance="taylor", precision="fp32"), model
    )
    accumulate_gradients(model, digits.val, digits.normalisation)
    before = resolved.key(model, digits.test)
    model.get_submodule("features.0").weight.grad *= -1
    assert resolved.key(model, digits.test) != before


@pytest.mark.parametrize("kind", ["structured", "unstructured"])
def test_screening_gives_the_counts_of_fp32(kind: Kind, trained, digits) -> None:
    model, levels, layers = (
        trained(WIDE),
        (0.2, 0.6, 0.9),
        ("features.4", "features.15", "classifier.0"),
    )
    few = Split(digits.test.images[:150], digits.test.labels[:150])
    exact = sweep(model, few, kind, levels=levels, layers=layers, precision="fp32")
    screened = sweep(model, few, kind, levels=levels, layers=layers, precision="screened")
    assert screened.precision == "screened"
    assert [p.correct for p in screened.points] == [p.correct for p in exact.points]
    redone = [point.redone for point in screened.points]
    assert all(0 <= count <= len(few) for count in redone)
    assert 0 < sum(redone) < 0.9 * len(redone) * len(few)
    assert all(point.redone == 0 for point in exact.points)


def test_bf16_alone_is_near(trained, digits) -> None:
    model = trained(WIDE)
    exact = sweep(model, digits.test, "structured", levels=(0.1,), precision="fp32")
    rough = sweep(model, digits.test, "structured", levels=(0.1,), precision="bf16")
    assert rough.precision == "bf16"
    assert max(
        abs(a.correct - b.correct) for a, b in zip(exact.points, rough.points, strict=True)
    ) <= 0.1 * len(digits.test)


class Fixed:
    """A layer whose logits at each level are given."""

    def __init__(self, *levels: torch.Tensor) -> None:
        self.levels, self.calls = levels, []

    def logits(self, x: torch.Tensor, chosen):
        self.calls.append((len(x), list(chosen)))
        for level in chosen:
            yield self.levels[level][x[:, 0].long()]


def test_calibration_trusts_only_margins_beyond_its_errors() -> None:
    true = torch.tensor([[0.0, 0.3], [0.0, 5.0], [5.0, 0.0], [0.0, 9.0]])
    seen = true.clone()
    seen[0] = torch.tensor([0.2, 0.1])  # wrong class: an error of 0.4 in the margin
    x = torch.arange(4.0)[:, None]
    exact, screen = Fixed(true, true), Fixed(seen, true + 100 * torch.tensor([1.0, 0.0]))
    classifier = bounded(exact, screen, x, 2)
    assert classifier.bounds[0] == pytest.approx(SAFETY * 0.4)
    assert classifier.bounds[1] == float("inf"), (
        "all would be redone, more than the share that pays"
    )
    assert 1 / 4 <= MOST_REDONE < 1
    exact.calls.clear()
    (first, again), (second, all_of_it) = classifier.predictions(x, 2)
    assert first.tolist() == second.tolist() == true.argmax(1).tolist()
    assert (again, all_of_it) == (1, 4)
    assert exact.calls == [(1, [0]), (4, [1])]


def test_out_of_memory_goes_on_in_halves_with_the_same_counts(
    trained, digits, monkeypatch, tmp_path: Path
) -> None:
    """The layers evaluated before the memory ran out are not evaluated again."""
    model = trained(WIDE)
    expected = sweep(model, digits.test, "structured", levels=(0.2, 0.8), precision="fp32")
    levels, calls = Engine._levels, []

    def cramped(self: Engine, *args: Any) -> Any:
        calls.append((self._exact.layers[args[1]].name, self._block))
        if len(calls) > 3 and self._block > 100:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return levels(self, *args)

    monkeypatch.setattr(Engine, "_levels", cramped)
    with pytest.warns(
        UserWarning, match=r"out of memory with (250|125) images at a time; going on with (125|62)$"
    ) as said:
        assert (
            sweep(model, digits.test, "structured", levels=(0.2, 0.8), precision="fp32") == expected
        )
    assert len(said) == 2
    names = WIDE.conv_names
    assert calls == [(name, 250) for name in names[:4]] + [(names[3], 125)] + [
        (name, 62) for name in names[3:]
    ]


def test_ranks_share_blocks_and_sum_up(trained, digits, monkeypatch) -> None:
    """Two ranks in one process: each fills its own part, and the parts add up to the whole."""
    monkeypatch.setitem(engine_module.SWEEP_BLOCK, "cpu", 100)
    model = trained(WIDE)
    resolved = ResolvedSweep.of(SweepQuestion("structured", (0.5,), precision="fp32"), model)
    whole = HitTable.of(resolved, len(digits.test), None, ALONE)
    Engine(model, digits.test, resolved, ALONE).fill(whole, quiet=True)
    parts = []
    for rank in range(2):

        class Half(Ranks):
            def all_reduce_sum(self, tensor):
                return tensor

            def broadcast(self, value):
                return value

        half = Half(rank, 2)
        part = HitTable.of(resolved, len(digits.test), None, half)
        Engine(model, digits.test, resolved, half).fill(part, quiet=True)
        parts.append(part.hits)
    assert (parts[0] + parts[1] == whole.hits).all()
    assert parts[0][:, 200:].sum() == parts[1][:, :200].sum() == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"levels": ()}, "--levels: give distinct"),
        ({"levels": (0.1, 0.1)}, "--levels: give distinct"),
        ({"levels": (1.0,)}, "--levels.*1 or more"),
        ({"levels": (float("nan"),)}, "--levels.*finite"),
        ({"levels": (0.99,)}, "--levels: features.0: ratio 0.99 would remove all 16 channels"),
        ({"layers": ("features.1",)}, "--layers: features.1: no prunable layer"),
        ({"layers": ()}, "--layers: names none"),
        ({"layers": "features.0"}, "is one name; give a list"),
        ({"kind": "structurd"}, "kind 'structurd' is not one of structured, unstructured"),
        ({"precision": "fp16"}, "precision 'fp16' is not one of auto"),
        ({"layers": ("classifier.6",)}, "--layers: classifier.6: the last linear"),
        ({"importance": "magic"}, "'magic' is not one of"),
        ({"kind": "unstructured", "importance": "l2"}, "by magnitude alone"),
        ({"importance": "bn", "layers": ("classifier.0",)}, "no batch norm to rank by"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict, said: str, make_model, few_digits) -> None:
    with pytest.raises(BadInput, match=said):
        sweep(make_model(WIDE), few_digits.test, **options)


def test_no_images_are_refused(make_model, few_digits) -> None:
    with pytest.raises(BadInput, match="no images"):
        sweep(make_model(WIDE), Split(few_digits.test.images[:0], few_digits.test.labels[:0]))


def test_levels_in_groups_change_nothing_that_counts(trained, digits, monkeypatch) -> None:
    model = trained(WIDE)
    for kind in ("structured", "unstructured"):
        whole = sweep(model, digits.test, kind, levels=(0.2, 0.5, 0.8))
        with monkeypatch.context() as patch:
            patch.setitem(points.LEVEL_BYTES, "cpu", 1)
            assert sweep(model, digits.test, kind, levels=(0.2, 0.5, 0.8)) == whole


def test_screening_redoes_what_is_not_finite() -> None:
    true = torch.tensor([[0.0, 5.0], [5.0, 0.0]])
    seen = torch.tensor([[float("nan"), 5.0], [5.0, 0.0]])
    exact, screen = Fixed(true), Fixed(seen)
    x = torch.arange(2.0)[:, None]
    assert bounded(exact, screen, x, 1).bounds == (float("inf"),)
    ((classes, again),) = Classifier(exact, screen, (0.1,)).predictions(x, 1)
    assert (classes.tolist(), again) == ([1, 0], 1)


@pytest.mark.parametrize("kind", ["structured", "unstructured"])
def test_images_are_redone_in_batches_of_few_sizes(
    kind: Kind, trained, digits, monkeypatch
) -> None:
    """Devices that plan for each batch size get powers of two, CPUs do not; counts are equal."""
    options = {"levels": (0.2, 0.6, 0.9), "layers": ("features.25", "classifier.0")}
    few = Split(digits.test.images[:120], digits.test.labels[:120])
    sizes: list[int] = []
    real = screening.Classifier._verified

    def watched(self, x, level, logits):
        exact = self.exact

        class Watching:
            def logits(self, x, chosen):
                sizes.append(len(x))
                return exact.logits(x, chosen)

        return real(replace(self, exact=Watching()), x, level, logits)

    monkeypatch.setattr(screening.Classifier, "_verified", watched)
    found = {}
    for padded in ((), ("cpu",)):
        monkeypatch.setattr(screening, "PADDED", padded)
        sizes.clear()
        found[padded] = sweep(trained(WIDE), few, kind, precision="screened", **options)
        of_two = [
            n for n in sizes if n == len(few) or (n >= screening.LEAST_REDONE and n & (n - 1) == 0)
        ]
        assert len(sizes) > 5
        assert (of_two == sizes) is bool(padded)
    assert found[()] == found["cpu",]


def test_auto_screens_only_where_that_was_measured_to_be_faster(make_model, monkeypatch) -> None:
    """Not on a CPU with AVX512-BF16, where screening took longer than fp32."""
    for hardware in (True, False):
        monkeypatch.setattr(
            "tp_vgg.machine.precision.has_fast_bf16", lambda _, found=hardware: found
        )
        assert ResolvedSweep.of(SweepQuestion("structured"), make_model()).precision == "fp32"
        assert screening_pays(torch.device("cuda")) is hardware
    assert (
        ResolvedSweep.of(SweepQuestion("structured", precision="screened"), make_model()).precision
        == "screened"
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_counts_as_the_cpu_does(trained, digits) -> None:
    """Sums in another order may move near-ties: 2 images in 10,000, so none of so few."""
    model = copy.deepcopy(trained(WIDE))
    there = Split(digits.test.images.cuda(), digits.test.labels.cuda())
    for kind in ("structured", "unstructured"):
        here = sweep(model.cpu(), digits.test, kind, precision="fp32")
        for precision in ("fp32", "screened"):
            away = sweep(model.cuda(), there, kind, precision=precision)
            assert [p.correct for p in away.points] == [p.correct for p in here.points]


def test_masked_models_are_refused(make_model, few_digits) -> None:
    model = make_model(WIDE)
    torch.nn.utils.prune.l1_unstructured(model.get_submodule("features.0"), "weight", 3)
    with pytest.raises(BadInput, match="weight masks"):
        sweep(model, few_digits.test)


def test_a_sweep_leaves_the_model_alone_and_is_public(make_model, few_digits) -> None:
    model = make_model(SMALL).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    table = tp_vgg.sweep(
        model, few_digits.test, "structured", levels=[0.5], layers=["classifier.0", "features.25"]
    )
    assert [point.layer for point in table.points] == ["features.25", "classifier.0"]
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_cost_removed_is_the_specs_arithmetic(make_model, few_digits) -> None:
    model = make_model(SMALL)
    for kind in ("structured", "unstructured"):
        (point,) = (
            table := sweep(model, few_digits.test, kind, levels=[0.5], layers=["features.4"])
        ).points
        macs, params = table.cost_removed(point)
        pruned = copy.deepcopy(model)
        if kind == "structured":
            prune_structured(pruned, {"features.4": 0.5})
            assert macs == pytest.approx(1 - pruned.spec.macs() / SMALL.macs())
            assert params == pytest.approx(1 - pruned.spec.params() / SMALL.params())
        else:
            row = next(row for row in SMALL.rows if row.name == "features.4")
            assert (macs, params) == pytest.approx(
                (0.5 * row.macs / SMALL.macs(), 0.5 * row.weights / SMALL.params())
            )


def test_run_takes_any_key(make_model, few_digits, tmp_path: Path) -> None:
    model = make_model(SMALL)
    resolved = ResolvedSweep.of(SweepQuestion("structured", (0.5,), ("features.0",)), model)
    assert run(model, few_digits.test, resolved, "mine").key == "mine"
