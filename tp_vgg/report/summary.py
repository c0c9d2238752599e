"""What came of it, in three sentences with their numbers (no torch)."""

from __future__ import annotations

from dataclasses import dataclass

from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.latency.quoted import Gain, gain_of
from tp_vgg.latency.table import Latency, LatencyRow
from tp_vgg.latency.verdicts import UNEXPLAINED


@dataclass(frozen=True)
class Sentence:
    claim: str
    """A word or two."""
    text: str


def summary_sentences(
    dense: ModelRecord, model: ModelRecord, row: LatencyRow | None, latency: Latency | None
) -> list[Sentence]:
    """Size, accuracy and time of ``model`` beside the ``dense`` one. ``row``: its time in the cell that is quoted, if it was timed; the
    sentence on time is about the fastest mode of either at that batch size and dtype."""
    if model is dense:
        found = f"The dense network has {dense.test.accuracy:.2f} % [{dense.test.low:.2f}, {dense.test.high:.2f}] of {dense.test.n:,} test images right."
        return [
            Sentence(
                "Nothing is pruned yet", f"{found} Choose ratios below, then run the command there."
            )
        ]
    return [_size(dense, model), _accuracy(dense, model), _time(row, latency)]


def _size(dense: ModelRecord, model: ModelRecord) -> Sentence:
    zeros = model.nonzero < 0.99 * model.params
    kept = model.nonzero if zeros else model.params
    what = "non-zero parameters" if zeros else "parameters"
    macs = (
        f"the multiply-accumulates of one image are {model.macs / 1e6:.1f} of {dense.macs / 1e6:.1f} million ({model.macs / dense.macs:.3f}×)"
        if model.macs < dense.macs
        else "a dense kernel still does all of the multiply-accumulates"
    )
    return Sentence(
        "Smaller" if kept < dense.params else "Not smaller",
        f"{kept / 1e6:.2f} of {dense.params / 1e6:.2f} million {what} are left ({kept / dense.params:.3f}×), and {macs}; the file has "
        f"{model.bytes / 1e6:.1f} MB of {dense.bytes / 1e6:.1f}. These are exact counts.",
    )


def _accuracy(dense: ModelRecord, model: ModelRecord) -> Sentence:
    drop, low, high = model.drop_against(dense)
    claim = (
        "Less accurate" if low > 0 else "More accurate" if high < 0 else "No loss of accuracy shown"
    )
    chance_warnings = dense.test.chance_warnings(100 / dense.spec["num_classes"])
    return Sentence(
        "The dense network guesses" if chance_warnings else claim,
        f"{model.test.accuracy:.2f} % [{model.test.low:.2f}, {model.test.high:.2f}] of {model.test.n:,} test images are right, where the dense "
        f"network has {dense.test.accuracy:.2f} %: a drop of {drop:+.2f} points [{low:+.2f}, {high:+.2f}], paired by image (n = {model.test.n:,})."
        + "".join(f" Its {warning}." for warning in chance_warnings),
    )


def _time(row: LatencyRow | None, latency: Latency | None) -> Sentence:
    if row is None or latency is None or row.speedup is None or row.mac_ratio is None:
        return Sentence(
            "Time: not measured",
            "The command benchmark, with the same options, measures it; then draw this page again.",
        )
    gain = gain_of(latency, row)
    claim = {"faster": "Faster", "slower": "Slower"}.get(gain.verdict, "No faster")
    place = latency.environment
    device = (
        f"{place['cpu']}, {place['threads']} CPU thread{'s' * (place['threads'] != 1)}"
        if place["device"] == "cpu"
        else place["device"]
    )
    known = [reason for reason in gain.row.reasons if reason != UNEXPLAINED]
    reasons = f" Why not more: {'; '.join(known)}." if known else ""
    return Sentence(
        claim,
        f"{gain.ratio.value:.2f}× [{gain.ratio.low:.2f}, {gain.ratio.high:.2f}] the speed of the dense network ({_how(gain)}; {device}), "
        f"where the multiply-accumulates promise {row.mac_ratio:.2f}×.{reasons}",
    )


def _how(gain: Gain) -> str:
    """The mode, or where each is fastest in another, both."""
    row, dense = gain.row, gain.dense
    if dense is None:
        return f"median of n = {len(row.seconds)} paired blocks; {row.case.label}"
    return (
        f"each in its fastest mode: {row.mode} against {dense.mode}, {row.dtype}, batch {row.batch_size}; medians of n = {len(row.seconds)} and "
        f"{len(dense.seconds)} blocks, which are not paired"
    )
