"""What each command measures: nothing that it does not need."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from helpers.commands import files, one_line

from tp_vgg.evaluation import evaluate

PLAN = ["plan", "--dataset", "digits", "--budget", "macs=0.5", "--round-to", "1", "--out", "o"]
LEVEL = ["--levels", "0.5", "--layers", "features.4", "--out", "o"]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """The number of images of each split that went through `predictions`; the sizes differ."""
    counts: Counter[int] = Counter()
    real = evaluate.predictions

    def counted(model, split, *args, **options):
        counts[len(split)] += 1
        return real(model, split, *args, **options)

    monkeypatch.setattr(evaluate, "predictions", counted)
    return counts


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "command",
    [
        ["sensitivity", "--kind", "structured", *LEVEL],
        ["sensitivity", "--kind", "unstructured", "--split", "test", *LEVEL],
        ["sensitivity", "--kind", "structured", "--importance", "taylor", *LEVEL],
        ["structured", "--show", "features.0", "--out", "o"],
        ["unstructured", "--show", "features.0", "--out", "o"],
    ],
    ids=" ".join,
)
def test_the_dense_model_is_not_measured_unasked(
    command: list[str], call, small: list, at_home: Path, measured: Counter[int]
) -> None:
    status, _, err = call(*command, *small)
    assert status == 0, err
    assert not measured
    assert not [name for name in files(at_home / "o") if "baseline" in name]


@pytest.mark.usefixtures("undrawn", "brief")
def test_after_a_sweep_alone_every_command_works_or_names_the_fix(
    call, small: list, at_home: Path, measured: Counter[int]
) -> None:
    dense = ["--out", "o"]
    assert call("sensitivity", "--kind", "structured", *small, "--out", "o")[0] == 0
    for command in ("compare", "report"):
        status, _, err = call(command, "--dataset", "digits", *dense)
        assert status == 2
        assert "nothing to compare yet, only a sweep; give --checkpoint" in one_line(err)
        assert "small.pth" in err
    status, _, err = call("benchmark", "--dataset", "digits", *dense)
    assert status == 2
    assert "nothing to time yet" in one_line(err)
    assert call(*PLAN)[0] == 0
    timing = ["--modes", "eager", "--dtypes", "fp32", "--batch-sizes", "1", "--trials", "9"]
    status, _, err = call("benchmark", *small, *dense, *timing, "--no-probes")
    assert status == 0, err
    assert not measured

    status, table, err = call("compare", *small, *dense)
    assert status == 0, err
    assert "small.pth: has only been swept: measuring it" in err
    assert table.splitlines()[2].startswith("baseline")
    count = sum(measured.values())
    assert count == 2
    assert call("compare", "--dataset", "digits", *dense)[0] == 0
    status, _, err = call("report", *small, *dense)
    assert status == 0, err
    assert "Structured sensitivity" in (at_home / "o/report.html").read_text()
    assert sum(measured.values()) == count, "a record that is there is used"


@pytest.mark.usefixtures("undrawn")
def test_a_sweep_says_which_file_it_is_of(call, small: list, at_home: Path) -> None:
    assert call("sensitivity", "--kind", "structured", *small, *LEVEL)[0] == 0
    record = json.loads((at_home / "o/records/structured_sensitivity.json").read_text())
    assert (at_home / "o" / record["checkpoint"]).resolve() == Path(small[-1]).resolve()
    assert record["environment"]["device"] == "cpu"
    assert any("checkpoint from elsewhere" in note for note in record["notes"])


@pytest.mark.usefixtures("undrawn", "thin")
def test_a_sweep_of_a_checkpoint_is_planned_beside_an_own_baseline(
    call, small: list, at_home: Path
) -> None:
    """The sweep names its file, so it is not taken for one of an older baseline."""
    own = ["--dataset", "digits", "--limit-train", "40", "--limit-val", "40", "--out", "o"]
    assert call("train", *own, "--limit-test", "60", "--epochs", "1", "--head", "linear")[0] == 0
    assert call("sensitivity", "--kind", "structured", *small, "--out", "o")[0] == 0
    status, _, err = call(*PLAN)
    assert status == 0, err
    path = at_home / "o/records/structured_sensitivity.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "checkpoint": "vgg11_digits_finetuned.pth"}))
    status, _, err = call(*PLAN)
    assert status == 2
    assert "is of other weights than" in one_line(err)
