"""This module sums up a pruned model in three sentences: size, accuracy and time.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.latency.quoted import Gain, gain_of
from tp_vgg.latency.table import Latency, LatencyRow
from tp_vgg.latency.verdicts import UNEXPLAINED
from tp_vgg.rundir.comparison import Comparison


@dataclass(frozen=True)
class Sentence:
    """A sentence of the summary has a claim and the numbers behind it, at length and in short."""

    claim: str
    """The claim in a few words, such as ``Smaller``."""
    text: str
    """One or more whole sentences with the numbers."""
    line: str
    """The claim and its numbers in at most 80 columns, for a terminal."""


def verdict(comparison: Comparison, left_out: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the page's claims in short: a heading, then a line each on size, accuracy and time.

    They are about the last model. ``left_out`` is as for :func:`summary_sentences`.
    """
    dense, model = (list(comparison.records.values())[place] for place in (0, -1))
    name, quoted = list(comparison.records)[-1], comparison.quoted()
    latency = comparison.latency if quoted else None
    sentences = summary_sentences(dense, model, quoted.get(name), latency, left_out)
    heading = [] if model is dense else [f"{name} against {next(iter(comparison.records))}"]
    return (*heading, *(sentence.line for sentence in sentences))


def summary_sentences(
    dense: ModelRecord,
    model: ModelRecord,
    row: LatencyRow | None,
    latency: Latency | None,
    left_out: Sequence[str] = (),
) -> list[Sentence]:
    """Compare the size, accuracy and time of ``model`` with those of the ``dense`` model.

    ``row``: the benchmark row that is quoted for ``model``; ``None`` if it was not timed. The
    sentence on time compares the fastest mode of each model at that batch size and dtype. If
    ``model`` is ``dense``, the result is one sentence on its accuracy. ``left_out``: the models
    that are not shown, with the reasons.
    """
    others = f" Not shown: {'; '.join(left_out)}." if left_out else ""
    if model is dense:
        test = dense.test
        return [
            Sentence(
                "No pruned model can be shown" if left_out else "Nothing is pruned yet",
                f"The dense network classifies {test.accuracy:.2f} % [{test.low:.2f}, "
                f"{test.high:.2f}]{_chance(dense)} of {test.n:,} test images correctly.{others} "
                "Choose ratios "
                "below, then run the command there.",
                ("No pruned model can be shown" if left_out else "Nothing is pruned yet")
                + f": the dense network has {test.accuracy:.2f} %{_chance(dense)}",
            )
        ]
    sentences = [_size(dense, model), _accuracy(dense, model), _time(row, latency)]
    if others:
        names = ", ".join(reason.partition(" ")[0] for reason in left_out)
        claim = "Not all models are shown"
        sentences.append(Sentence(claim, others.strip(), f"{claim}: {names} left out"))
    return sentences


def _size(dense: ModelRecord, model: ModelRecord) -> Sentence:
    zeros = model.has_zeros
    kept = model.nonzero if zeros else model.params
    counted = "non-zero parameters" if zeros else "parameters"
    macs = (
        f"it needs {dense.macs / model.macs:.2f}× fewer MACs (multiply-accumulates): "
        f"{model.macs / 1e6:.1f} instead of {dense.macs / 1e6:.1f} million per image"
        if model.macs < dense.macs
        else "a dense kernel still does all of the multiply-accumulates (MACs)"
    )
    claim = "Smaller" if kept < dense.params else "Not smaller"
    return Sentence(
        claim,
        f"The network has {kept / 1e6:.2f} million {counted} instead of {dense.params / 1e6:.2f} "
        f"million ({kept / dense.params:.3f}×), and {macs}. Its file has {model.bytes / 1e6:.1f} "
        f"instead of {dense.bytes / 1e6:.1f} MB. These are exact counts.{_form(dense)}",
        f"{claim}: {kept / dense.params:.3f}× of the {counted}, "
        f"{model.macs / dense.macs:.3f}× of the MACs",
    )


def _form(dense: ModelRecord) -> str:
    """Return a sentence on the dense network's own file, if tp_vgg did not write it."""
    if dense.file_bytes is None:
        return ""
    return (
        " The dense network's size is that of its weights as tp_vgg saves them; the file that it "
        f"came in has {dense.file_bytes / 1e6:.1f} MB."
    )


def _accuracy(dense: ModelRecord, model: ModelRecord) -> Sentence:
    drop, low, high = model.drop_against(dense)
    claim = (
        "Less accurate" if low > 0 else "More accurate" if high < 0 else "No loss of accuracy shown"
    )
    chance_warnings = dense.test.chance_warnings(dense.chance)
    test = model.test
    line = (
        f"{test.accuracy:.2f} %{_chance(model)} against {dense.test.accuracy:.2f} % "
        f"(drop {drop:+.2f} [{low:+.1f}, {high:+.1f}])"
    )
    if chance_warnings:
        claim = "The dense network guesses"
        line = f"{dense.test.accuracy:.2f} %{_chance(dense)}, so no drop can be shown"
    elif model.guesses:
        claim = "The pruned network guesses"
        line = f"{test.accuracy:.2f} %{_chance(model)} against {dense.test.accuracy:.2f} %"
    return Sentence(
        claim,
        f"The network classifies {test.accuracy:.2f} % [{test.low:.2f}, {test.high:.2f}]"
        f"{_chance(model)} of {test.n:,} test images correctly, and the dense network "
        f"{dense.test.accuracy:.2f} %{_chance(dense)}. "
        f"That is a drop of {drop:+.2f} percentage points [{low:+.2f}, {high:+.2f}], paired by "
        f"image (n = {test.n:,})."
        f"{_repair(model)}"
        + "".join(f" The dense network's {warning}." for warning in chance_warnings),
        f"{claim}: {line}",
    )


def _repair(model: ModelRecord) -> str:
    """Return a sentence on the model's accuracy before and after its repair, if it had one."""
    if model.repair is None:
        return ""
    removed, repaired = (
        f"{accuracy.accuracy:.2f} %{_chance_of(accuracy, model.chance)}"
        for accuracy in (model.repair.removed, model.repair.repaired)
    )
    return (
        f" As removed, the network classified {removed} correctly; repaired, before any"
        f" fine-tuning, {repaired}."
    )


def _chance(record: ModelRecord) -> str:
    return _chance_of(record.test, record.chance)


def _chance_of(accuracy: Accuracy, chance: float) -> str:
    """Return the accuracy of a guess in brackets, if ``accuracy`` can't be told from it."""
    return f" (chance: {chance:.3g} %)" if accuracy.chance_warnings(chance) else ""


def _time(row: LatencyRow | None, latency: Latency | None) -> Sentence:
    if row is None or latency is None or row.speedup is None or row.mac_ratio is None:
        return Sentence(
            "Time: not measured",
            "Run the command benchmark with the same options, then the command report.",
            "Time: not measured; run benchmark with the same options, then report",
        )
    gain = gain_of(latency, row)
    claim = {"faster": "Faster", "slower": "Slower"}.get(gain.verdict, "No faster")
    machine = latency.environment
    device = (
        f"{machine['cpu']}, {machine['threads']} CPU thread{'s' * (machine['threads'] != 1)}"
        if machine["device"] == "cpu"
        else machine["device"]
    )
    known = [reason for reason in gain.row.reasons if reason != UNEXPLAINED]
    reasons = f" Why not more: {'; '.join(known)}." if known else ""
    ratio = gain.ratio
    modes = gain.row.mode if gain.dense is None else f"{gain.row.mode} against {gain.dense.mode}"
    return Sentence(
        claim,
        f"The network runs at {ratio.value:.2f}× [{ratio.low:.2f}, {ratio.high:.2f}] the speed of "
        f"the dense network ({_how(gain)}; {device}). If time fell in proportion to the MACs, it "
        f"would be {row.mac_ratio:.2f}×.{reasons}",
        f"{claim}: {ratio.value:.2f}× [{ratio.low:.2f}, {ratio.high:.2f}], {modes}, "
        f"{gain.row.dtype}, batch {gain.row.batch_size}",
    )


def _how(gain: Gain) -> str:
    """Return the mode of both models, or both modes if they differ, and the number of blocks."""
    row, dense = gain.row, gain.dense
    if dense is None:
        return f"median of n = {len(row.seconds)} paired blocks; {row.case.label}"
    return (
        f"each in its fastest mode: {row.mode} against {dense.mode}, {row.dtype}, batch "
        f"{row.batch_size}; medians of n = {len(row.seconds)} and {len(dense.seconds)} blocks, "
        "which are not paired"
    )
