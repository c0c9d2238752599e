"""The house rules, checked on the source itself."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tp_vgg"

FLOORS = [
    {"hitmap", "errors", "interrupts", "typed"},
    {"spec", "stats", "storage", "tables", "search"},
    {
        "records",
        "history",
        "criteria",
        "ratios",
        "archive",
        "device",
        "folder",
        "ranks",
        "step",
        "latencies",
        "packed",
        "live_bytes",
        "machine_state",
        "cuda_graph",
        "traffic",
        "plans",
        "recipe",
    },
    {"model", "partials", "data", "plots", "losses", "kernels", "verdicts", "clocks", "curves"},
    {"bench", "quoted", "checkpoint", "evaluate", "unstructured", "chain", "interleave", "problem"},
    {"structured", "training_step", "tally", "points", "export", "allocate"},
    {"refit", "modes", "train"},
    {"engine", "estimate"},
    {"sensitivity", "staircase", "schedule"},
    {"probes"},
    {"latency", "report"},
    {"stages"},
    {"cli"},
    {"__main__"},
]
"""Each floor imports only floors below it; within report, stages and cli, files may import each other."""

NO_TORCH = {
    "errors",
    "hitmap",
    "interrupts",
    "typed",
    "spec",
    "stats",
    "storage",
    "tables",
    "records",
    "history",
    "criteria",
    "ratios",
    "folder",
    "plots",
    "latencies",
    "verdicts",
    "traffic",
    "quoted",
    "machine_state",
    "search",
    "plans",
    "recipe",
    "curves",
    "allocate",
    "problem",
    "report",
    "cli",
}
NO_TORCH_FILES = {
    "stages/settings.py",
    "stages/options.py",
    "stages/compare.py",
    "stages/plan.py",
    "__init__.py",
    "__main__.py",
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found += [f"{node.module}.{alias.name}" if node.module == "tp_vgg" else node.module for alias in node.names]
    return found


def top_level_imports(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return [a.name for n in tree.body if isinstance(n, ast.Import) for a in n.names] + [
        n.module or "" for n in tree.body if isinstance(n, ast.ImportFrom)
    ]


SOURCES = sorted(PACKAGE.rglob("*.py"))
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}


def test_every_module_has_a_floor() -> None:
    assert {room(path) for path in SOURCES} == set(LEVEL) | {"__init__"}


def test_imports_go_down_only() -> None:
    for path in SOURCES:
        if room(path) == "__init__":
            continue
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "tp_vgg" or parts[1] == "__version__":
                continue
            same_house = parts[1] == room(path) and room(path) in ("report", "stages", "cli")
            assert same_house or LEVEL[parts[1]] < LEVEL[room(path)], f"{path.name} imports {name}"


def test_torch_stays_out_of_the_way_to_a_refusal() -> None:
    for path in SOURCES:
        if room(path) in NO_TORCH or str(path.relative_to(PACKAGE)) in NO_TORCH_FILES:
            heavy = {name.split(".")[0] for name in top_level_imports(path)} & {
                "torch",
                "torchvision",
                "sklearn",
                "scipy",
            }
            assert not heavy, f"{path}: {heavy}"


def test_one_importer_of_torch_pruning() -> None:
    importers = {path.name for path in SOURCES if any(name.startswith("torch_pruning") for name in imports(path))}
    assert importers == {"structured.py"}


def test_the_package_never_imports_experiments() -> None:
    assert not [path for path in SOURCES if any(name.startswith("experiments") for name in imports(path))]


def test_no_pyplot_state() -> None:
    assert not [path for path in SOURCES if "pyplot" in path.read_text().replace("no pyplot", "")]
