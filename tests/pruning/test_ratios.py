from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
from helpers.plans import REFUSED
from hypothesis import given
from hypothesis import strategies as st

from tp_vgg.errors import BadInput
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.pruning.ratios import Plan, check_layers, read_ratios, resolve, resolve_sparsity

SPEC = VGGSpec.preset()


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, plan_file) -> None:
    content, said = REFUSED[case]
    path = plan_file(content)
    with pytest.raises(BadInput, match=said) as refusal:
        resolve(read_ratios(path), SPEC)
    message = str(refusal.value)
    assert str(path) in message
    assert message.isprintable(), "one line, and nothing that moves a cursor"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none.json", "no such file"), (tmp_path, "not a regular file")):
        with pytest.raises(BadInput, match=said):
            read_ratios(path)


def test_each_refusal_has_its_own_message(plan_file) -> None:
    messages = set()
    for name in (
        "not json",
        "a list",
        "duplicate key",
        "nan",
        "bool",
        "negative",
        "above one",
        "unknown layer",
        "last linear",
        "every channel",
        "too large",
    ):
        with pytest.raises(BadInput) as refusal:
            resolve(read_ratios(plan_file(REFUSED[name][0])), SPEC)
        messages.add(str(refusal.value))
    assert len(messages) == 11


@pytest.mark.parametrize("kind", ["structured", "unstructured"])
def test_a_plan_for_the_other_kind_is_refused(kind: str, plan_file, tmp_path: Path) -> None:
    other = {"structured": "unstructured", "unstructured": "structured"}[kind]
    path = plan_file({"features.0": 0.5})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    written = tmp_path / "plan.json"
    written.write_text(json.dumps({"files": {kind: ["another", digest]}}))
    assert read_ratios(path, kind).values == {"features.0": 0.5}
    with pytest.raises(BadInput, match=f"wrote it for {kind}"):
        read_ratios(path, other)
    written.write_text(json.dumps({"files": {kind: [digest], other: [digest]}}))
    assert read_ratios(path, other).values == {"features.0": 0.5}, "the best plan of both kinds"
    path.write_text('{"features.0": 0.25}')
    assert read_ratios(path, other).values == {"features.0": 0.25}, (
        "edited by hand: no longer that plan"
    )
    for damaged in ('{"files": 3}', '{"files": {"structured": "x", "unstructured": [7]}}', "{"):
        written.write_text(damaged)
        assert read_ratios(path, other).values == {"features.0": 0.25}
    written.write_text(json.dumps({"files": {kind: [digest]}}))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    written.rename(moved / "plan.json")
    path.write_text('{"features.0": 0.5}')
    with pytest.raises(BadInput, match="wrote it for"):
        read_ratios(path, other, plan_dirs=(moved,))


@pytest.mark.parametrize(
    ("width", "ratio", "round_to", "kept"),
    [
        (64, 0.1, 1, 58),  # stock torch-pruning removes 7
        (10, 0.9, 1, 1),  # stock torch-pruning skips the layer because of rounding in floats
        (64, 0.5, 8, 32),
        (64, 0.3, 8, 48),  # 45 rounded up
        (64, 0.05, 8, 64),  # 61 rounded up
        (10, 0.1, 8, 10),  # 9 rounded up to 16, but never above the width
        (5, 0.5, 1, 2),  # a half is rounded up to one more channel removed
        (64, 0.0, 1, 64),
    ],
)
def test_resolve_follows_the_contracts_rule(
    width: int, ratio: float, round_to: int, kept: int
) -> None:
    spec = SPEC.with_widths({"features.4": width})
    target = resolve(Plan({"features.4": ratio}, "t"), spec, round_to)
    assert target == spec.with_widths({"features.4": kept})


@given(
    values=st.dictionaries(st.sampled_from(list(SPEC.prunable)), st.floats(0, 0.98)),
    round_to=st.integers(1, 100),
)
def test_resolve_keeps_within_bounds(values: dict, round_to: int) -> None:
    target = resolve(Plan(values, "t"), SPEC, round_to)
    for name, width in SPEC.prunable.items():
        asked = width - math.floor(values.get(name, 0) * width + 0.5)
        kept = target.prunable[name]
        assert asked <= kept <= width
        assert kept % round_to == 0 or kept == width or name not in values


def test_sparsity_counts_as_torch_does() -> None:
    zeros = resolve_sparsity(Plan({"features.0": 0.5, "classifier.0": 0.333}, "t"), SPEC)
    assert zeros == {"features.0": 864, "classifier.0": round(0.333 * 512 * 4096)}
    with pytest.raises(BadInput, match="zero all 1728 weights"):
        resolve_sparsity(Plan({"features.0": 0.9999}, "t"), SPEC)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_is_a_plan_or_a_refusal(tmp_path_factory, content) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "plan.json"
    path.write_text(json.dumps(content))
    refusal, plan = "", Plan({}, "t")
    try:
        plan = read_ratios(path)
        check_layers(plan, SPEC)
    except BadInput as error:
        refusal = str(error)
    if refusal:
        assert refusal.isprintable()
    else:
        assert all(0 <= value < 1 for value in plan.values.values())
        assert set(plan.values) <= set(SPEC.prunable)
