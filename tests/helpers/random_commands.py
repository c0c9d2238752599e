"""Seeded random command lines, drawn from click's own parameters.

An option that is added later is drawn too, by its type. Numbers are capped so that the work of a
line stays small.
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import click

from tp_vgg.cli import cli

BASE = {
    "--out": "o", "--dataset": "digits", "--head": "linear", "--device": "cpu",
    "--limit-train": "64", "--limit-val": "40", "--limit-test": "60",
}  # fmt: skip
"""Options of most lines."""
CHANGED = 0.08
"""Share of lines in which one of these options is drawn, and share in which it is left out."""
SPOILED = 0.35
"""Share of lines with a bad value."""
WEIGHTS = {
    "structured": 6, "unstructured": 4, "train": 3, "sensitivity": 4, "plan": 6, "benchmark": 4,
    "compare": 2, "report": 1, "export": 2, "run": 2,
}  # fmt: skip
"""How often each command is drawn; 2 for one that is not named here."""
OPTIONS = (0, 0, 1, 1, 1, 2, 2, 3, 5)
"""Numbers of further options that a line may have."""
SMALL = {
    "--epochs": (1, 2), "--finetune-epochs": (0, 0, 1, 2), "--steps": (1, 2), "--trials": (9, 10),
    "--threads": (1, 2), "--batch-size": (16, 32), "--round-to": (1, 2, 8), "--seed": (0, 0, 1),
    "--limit-train": (48, 64, 100), "--limit-val": (20, 40), "--limit-test": (30, 60),
    "--image-size": (32,), "--repair-images": (32, 100), "--realise": (0, 1, 2),
    "--lr": (0.001, 0.05), "--ratio": (0.25, 0.5, 0.7), "--sparsity": (0.3, 0.5, 0.9),
}  # fmt: skip
"""Good values of numbers, if they are not simply those next to the bounds."""
ENDLESS = ("--epochs", "--finetune-epochs", "--steps", "--trials", "--realise")
"""Options that make more work with a larger number."""
TEXTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "--levels": (
        ("0.5", "0.25,0.5", "0.5,0.25,0.5", "0,0.9", "0.1,0.2,0.3"),
        ("1", "0.5,1.5", "-0.1", "nan", "0.5,,0.9", "half", "0.5;0.9", "1e999"),
    ),
    "--layers": (
        ("features.4", "features.0,features.8", "all", " features.4 , features.4", "features.11"),
        ("features.1", "classifier", "features.4,", "*", "features.4;features.8", "ALL"),
    ),
    "--budget": (
        ("macs=0.5", "params=0.6", "macs=0.9", "macs=0.7", "drop=5", "macs=0.8", "sparsity=0.5",
         "latency=1"),
        ("macs", "macs=", "macs=0", "macs=2", "macs=nan", "flops=0.5", "drop=-1", "=0.5",
         "macs=0.0001", "sparsity=1", "macs=0.5,params=0.5", "macs=1e999", "latency=inf"),
    ),
    "--modes": (
        ("eager", "folded", "eager,folded", "folded,folded", "graph,eager"),
        ("fast", "eager,", "graph", "EAGER", "folded-graph", "eager;folded"),
    ),
    "--dtypes": (("fp32", "fp32,fp32", "fp32,tf32"), ("fp64", "tf32", "FP32", ",", "fp32 fp32")),
    "--batch-sizes": (
        ("1", "1,2", "2", "2,2"),
        ("0", "-1", "1.5", "1,", "one", "10000000", "1" * 5000, "nan"),
    ),
    "--show": (("features.4", "features.0", "features.8"), ("features.1", "features", "x/../y")),
    "--tag": (("t", "t", "u", "v.1"), ("plots", "a/b", "..", "t t", "replaced", "/t", "t" * 300)),
    "--device": (("cpu", "auto"), ("cuda", "cuda:0", "cuda:99", "gpu", "cpu:7", "meta", "mps")),
    "--weights": (("none", "{checkpoint}"), ("imagenet", "NONE", "missing.pth", "notes.txt")),
    "--mean": (("0.5,0.5,0.5",), ("0.5", "0.5,0.5,nan", "a,b,c", "2,2,2")),
    "--std": (("0.2,0.2,0.2",), ("0,0,0", "0.2", "inf,1,1", "-1,-1,-1")),
}  # fmt: skip
"""(Good, bad) values of texts; "{checkpoint}" stands for a file that can be loaded."""
ODD_TEXTS = ("", " ", "x", "a,b", "nan", "-1", "é", "\x1b[31m", "\udcff", "a\nb", "y" * 300, "%s")
"""Texts that fit no option, or any."""
PLANS = ("plans/good.json", "plans/zeros.json", "plans/mild.json")
BAD_PLANS = (
    "plans/nan.json", "plans/unknown.json", "plans/list.json", "plans/all.json", "empty", "plans",
)  # fmt: skip
CHECKPOINTS = ("foreign.pth", "other.pth")
BAD_CHECKPOINTS = ("torn.pth", "empty", "notes.txt", "plans", "missing.pth", "o")
PATHS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "--out": (("o", "o", "p", "{omitted}"), ("notes.txt", "notes.txt/o", "", "o/t", "z" * 300)),
    "--data-dir": (("pictures", "data"), ("notes.txt", "missing", "plans", "notes.txt/data")),
    "--ratios": ((*PLANS, "{plan}"), (*BAD_PLANS, "missing.json", "{checkpoint}")),
    "--checkpoint": (("{checkpoint}",), (*BAD_CHECKPOINTS, "plans/good.json")),
    "--profile": (("{profile}",), ("plans/good.json", "empty", "missing.json", "torn.pth", "o")),
    "--output": (
        ("new.json", "o/new.safetensors", "new.onnx", "new.pt2", "new.sparse"),
        ("{plan}", "{checkpoint}", "plans/good.json", "o", "missing/new.json", "notes.txt/x",
         "o/plan.json", "o/records/baseline.json", "o/report.html"),
    ),
    "CHECKPOINTS": (("{checkpoint}",), BAD_CHECKPOINTS),
    "CHECKPOINT": (("{checkpoint}",), BAD_CHECKPOINTS),
}  # fmt: skip
"""(Good, bad) values of paths; see :func:`_filled` for those in braces."""
ONE_OF = {"structured": ("--ratios", "--ratio"), "unstructured": ("--ratios", "--sparsity")}
"""Options of which nearly every line has exactly one."""
ALWAYS = {"benchmark": ("--modes", "--batch-sizes", "--trials"), "plan": ("--round-to",)}
"""Options whose default makes much work, or does not suit the small networks of the tests."""


@dataclass(frozen=True)
class Line:
    """A line is one command line of tp_vgg, by its options in order."""

    command: str
    options: tuple[tuple[str, str, tuple[str, ...]], ...]
    """Name and value of each option or argument, and its words on the command line."""

    @property
    def args(self) -> list[str]:
        """Return the words after ``python -m tp_vgg``."""
        return [self.command, *(word for *_, words in self.options for word in words)]

    def value(self, name: str) -> str | None:
        """Return the last value of an option; ``None`` if it is not given."""
        return next((value for option, value, _ in reversed(self.options) if option == name), None)

    def __str__(self) -> str:
        # A lone surrogate, which stands for an undecodable byte, can't be printed.
        text = shlex.join(["python", "-m", "tp_vgg", *self.args])
        return text.encode(errors="backslashreplace").decode()


def draw(rng: random.Random, files: Sequence[str]) -> Line:
    """Draw a line; ``files`` are the paths that exist, from which paths are drawn."""
    commands = cli.list_commands(click.Context(cli))
    (name,) = rng.choices(commands, [WEIGHTS.get(command, 2) for command in commands])
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    params = {_name(param): param for param in command.params}
    chosen = _chosen(rng, name, params)
    bad = _spoiled(rng, chosen) if rng.random() < SPOILED else set()
    options = []
    for option in chosen:
        if option in BASE and option not in bad and rng.random() > CHANGED:
            values = [BASE[option]]
        else:
            values = _values(rng, params[option], option in bad)
        for value in values:
            filled = _filled(rng, value, files)
            if filled is not None:
                options.append((option, filled, _words(rng, params[option], filled)))
    return Line(name, tuple(options))


def _name(param: click.Parameter) -> str:
    return param.opts[0] if isinstance(param, click.Option) else param.human_readable_name.upper()


def _chosen(rng: random.Random, command: str, params: dict[str, click.Parameter]) -> list[str]:
    """Return the names of the parameters of a line, in random order."""
    chosen = [option for option in BASE if option in params and rng.random() > CHANGED]
    one_of = ONE_OF.get(command, ())
    if one_of and rng.random() < 0.9:
        chosen.append(rng.choice(one_of))
    further = [option for option in params if option not in BASE and option not in one_of]
    if rng.random() < 0.1:
        further += one_of
    # Half of a line's further options are of the command itself, which has fewer than it shares.
    own = [o for o in further if type(params[o]).__name__ != "SharedOption"] or further
    for _ in range(rng.choice(OPTIONS)):
        chosen.append(rng.choice(own if rng.random() < 0.6 else further))
    chosen += [o for o in ("--tag", "--force") if o in params and rng.random() < 0.2]
    required = [option for option, param in params.items() if param.required]
    chosen += [option for option in required if rng.random() < 0.97]
    chosen += ALWAYS.get(command, ())
    chosen = list(dict.fromkeys(chosen))
    rng.shuffle(chosen)
    return chosen


def _spoiled(rng: random.Random, chosen: list[str]) -> set[str]:
    """Return the one or two parameters of a line that get bad values."""
    special = [option for option in chosen if option not in BASE]
    choices = special if special and rng.random() < 0.75 else chosen
    return {rng.choice(choices) for _ in range(rng.choice((1, 1, 2)))}


def _values(rng: random.Random, param: click.Parameter, bad: bool) -> list[str]:
    """Return the values of a parameter, mostly one; a flag's is its name."""
    # Of an option that is repeated without need, the last value counts.
    repeated = 0.3 if param.nargs == -1 or bad else 0.15 if param.multiple else 0.02
    count = 2 if rng.random() < repeated else 1
    return [rng.choice(_candidates(param, bad)) for _ in range(count)]


def _candidates(param: click.Parameter, bad: bool) -> Sequence[str]:
    name, kind = _name(param), param.type
    if isinstance(param, click.Option) and param.is_flag:
        return [*param.opts[:1], *param.secondary_opts]
    if isinstance(kind, click.Choice):
        choices = list(map(str, kind.choices))
        return ["wrong", choices[0].upper(), "", f"{choices[0]},{choices[-1]}"] if bad else choices
    if isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
        return _numbers(name, kind, bad)
    if isinstance(kind, click.Path):
        good, spoiled = PATHS.get(
            name, (("{plan}", "{checkpoint}", "new"), ("notes.txt", "missing"))
        )
    else:
        good, spoiled = TEXTS.get(name, (("x", "1"), ()))
    return [*spoiled, *spoiled, *ODD_TEXTS] if bad else good


def _numbers(name: str, kind: click.ParamType, bad: bool) -> list[str]:
    low, high = getattr(kind, "min", None), getattr(kind, "max", None)
    whole = isinstance(kind, click.types.IntParamType)
    if not bad:
        small = SMALL.get(name)
        if small is None:
            start = 0 if low is None else low
            small = (start, start + 1) if whole else (start + 0.25, start + 0.5)
            small += tuple(b for b in (low, high) if b is not None and name not in ENDLESS)
        return [str(value) for value in small]
    words = ["nan", "inf", "-inf", "1e999", "-1", "", "x", "0x10", "1,5", "9" * 5000]
    if whole:
        words += ["1.5", *([] if name in ENDLESS else [str(10**30)])]
    if low is not None:
        words += [str(low - 1), str(low)]
    if high is not None:
        words += [str(high + 1), str(high)]
    if not whole:
        words += ["0", "1", "0.999999999", "1e-320", "100"]
    return words


def _filled(rng: random.Random, value: str, files: Sequence[str]) -> str | None:
    """Replace a placeholder by the path of such a file; ``None`` leaves the option out.

    ``{plan}``: of a run directory; ``{profile}``: a latency profile; ``{checkpoint}``: any that can
    be loaded; ``{omitted}``: none.
    """
    found = {
        "{omitted}": [],
        "{plan}": [f for f in files if f.endswith(("ratios.json", "sparsity.json"))],
        "{profile}": [f for f in files if "/profiles/" in f],
        "{checkpoint}": [
            *CHECKPOINTS,
            *(f for f in files if f.endswith(".pth") and f not in BAD_CHECKPOINTS),
        ],
    }.get(value, [value])
    return rng.choice(found) if found else None


def _words(rng: random.Random, param: click.Parameter, value: str) -> tuple[str, ...]:
    if not isinstance(param, click.Option) or param.is_flag:
        return (value,)
    spelling = rng.choice(param.opts)
    joined = spelling.startswith("--") and rng.random() < 0.2
    return (f"{spelling}={value}",) if joined else (spelling, value)
