"""fp32 means fp32 for any process-wide setting, by torch's older or newer interface.

Afterwards the settings of the process are as before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SETTINGS = [
    "pass",
    'torch.backends.fp32_precision = "tf32"',
    'torch.backends.fp32_precision = "ieee"',
    'torch.backends.fp32_precision = "bf16"',
    'torch.backends.cuda.matmul.fp32_precision = "tf32"',
    'torch.backends.cudnn.fp32_precision = "tf32"',
    'torch.backends.cudnn.conv.fp32_precision = "ieee"',
    'torch.backends.mkldnn.matmul.fp32_precision = "bf16"',
    'torch.set_float32_matmul_precision("high")',
    'torch.set_float32_matmul_precision("medium")',
    "torch.backends.cudnn.allow_tf32 = False",
    'torch.backends.fp32_precision = "tf32"; torch.backends.cudnn.conv.fp32_precision = "ieee"',
    'torch.set_float32_matmul_precision("high"); '
    'torch.backends.cuda.matmul.fp32_precision = "ieee"',
]
"""Lines that people write at the top of a script."""

SCRIPT = """
import json
import os
import sys
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
import torch
import tp_vgg
from tp_vgg.data import load_data
from tp_vgg.machine.precision import fp32_arithmetic
from tp_vgg.training.recipe import Recipe
from tp_vgg.training.setup import TrainingSetup
from tp_vgg.training.trainer import fit
warnings.simplefilter("error")
LEAVES = (
    torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn,
    torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv,
)
def leaves(): return [leaf.fp32_precision for leaf in LEAVES]
def legacy():
    found = []
    for read in (
        torch.get_float32_matmul_precision,
        lambda: torch.backends.cuda.matmul.allow_tf32,
        lambda: torch.backends.cudnn.allow_tf32,
    ):
        with suppress(RuntimeError):
            found.append((len(found), read()))
            continue
        found.append(None)
    return found
def then(place, value):
    # The effective settings after the process changes one of them, as a forked copy sees them.
    read, write = os.pipe()
    if os.fork() == 0:
        place.fp32_precision = value
        os.write(write, repr((leaves(), legacy())).encode())
        os._exit(0)
    os.wait()
    os.close(write)
    with os.fdopen(read) as answer:
        return answer.read()
def all_then():
    return [
        then(place, value)
        for place in (torch.backends, torch.backends.cudnn)
        for value in ("ieee", "tf32", "none")
    ]
def held():
    untouched = all_then()
    before = leaves(), legacy(), torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with fp32_arithmetic(tf32=False, deterministic=True):
        assert set(leaves()) == {"ieee"}, leaves()
        assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    with fp32_arithmetic(tf32=True, deterministic=False):
        assert set(leaves()) == {"tf32"}, leaves()
    assert all_then() == untouched, "what followed the process no longer does"
    for tf32, said in (
        (False, [(0, "highest"), (1, False), (2, False)]),
        (True, [(0, "high"), (1, True), (2, True)]),
    ):
        with fp32_arithmetic(tf32=tf32, deterministic=False, compiles=True):
            assert set(leaves()) == {"tf32" if tf32 else "ieee"}, leaves()
            assert legacy() == said, legacy()  # compilers and exporters read these
    torch.manual_seed(0)
    model = tp_vgg.build(tp_vgg.VGGSpec((8, 12, 16, 16, 20, 20, 24, 24), hidden=()))
    model.meta = {"mean": [0.3] * 3, "std": [0.3] * 3}
    fit(
        model,
        TrainingSetup(data, Recipe(epochs=1, lr=0.01, batch_size=32), data.normalisation),
        quiet=True,
    )
    table = tp_vgg.sweep(
        model, data.val, "structured", levels=[0.5], layers=["features.4"], precision="fp32"
    )
    times = tp_vgg.measure_latency(
        {"dense": model}, modes=["eager"], dtypes=["fp32"], batch_sizes=[1], trials=9, device="cpu"
    )
    assert times.rows[0].median_ms
    assert leaves() == before[0], (leaves(), before)
    assert legacy() == before[1], (before[1], legacy())
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == before[2:]
    return table.points[0].n
# Otherwise each copy would load these anew.
import scipy.stats
import torch._dynamo
from tp_vgg.latency import timing_device
from tp_vgg.latency.clock import CpuClock
timing_device.CpuClock = lambda threads, *_: CpuClock(threads, 1e-4)
data = load_data("digits", Path("unused"), torch.device("cpu"), limits=(64, 40, 40))
def tried(setting):
    # A forked copy makes the setting and works, because the settings are process-wide.
    read, write = os.pipe()
    if os.fork() == 0:
        os.dup2(write, 2)
        try:
            exec(setting)
            os.write(2, f"held {held()}".encode())
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        said = answer.read()
    os.wait()
    return said
print(json.dumps({setting: tried(setting) for setting in json.loads(sys.argv[1])}))
"""


@pytest.mark.parametrize(
    "settings", [SETTINGS[::4], pytest.param(SETTINGS, marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_whatever_the_process_has_set(settings: list[str]) -> None:
    """Each setting is made in a fresh copy of a process without settings."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(settings)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == dict.fromkeys(settings, "held 40")
