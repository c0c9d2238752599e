"""The corrections are those of the stated ridge problem, whichever way they are solved."""

from __future__ import annotations

import pytest
import torch

from tp_vgg.pruning import conjugate_gradients as gradients
from tp_vgg.pruning import least_squares
from tp_vgg.pruning.conjugate_gradients import Preconditioner, conjugate_gradients
from tp_vgg.pruning.least_squares import GramSystem, solve_samples

RIDGE = 3.0


def problem(samples: int = 90, rows: int = 12, columns: int = 24, seed: int = 0):
    """Return X and r in fp64, centred; the columns of X are correlated."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, columns, dtype=torch.float64, generator=generator)
    inputs = inputs @ torch.randn(columns, columns, dtype=torch.float64, generator=generator)
    lacking = torch.randn(samples, rows, dtype=torch.float64, generator=generator)
    return inputs - inputs.mean(0), lacking - lacking.mean(0)


def copies_of(kind: str, rows: int = 12, columns: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    draws = torch.rand(rows, columns, generator=generator)
    copies = {
        "full": torch.ones(rows, columns),
        "zeros": draws < 0.5,
        "few": draws < 0.1,
        "copies": (draws * 50).floor(),
        "full copies": torch.full((rows, columns), 49),
        "of all lengths": torch.arange(columns) < 2 * torch.arange(rows)[:, None],
        "nothing": torch.zeros(rows, columns),
    }[kind].to(torch.uint8)
    if kind in ("zeros", "copies"):
        copies[3] = 0
        copies[5] = copies.max()
        copies[6] = 1
    return copies


KINDS = ("full", "zeros", "few", "copies", "full copies", "of all lengths", "nothing")


def expected(inputs: torch.Tensor, lacking: torch.Tensor, copies: torch.Tensor) -> torch.Tensor:
    """Solve each row by lstsq, with one column per copy; return the sums of equal columns."""
    solution = torch.zeros(lacking.shape[1], inputs.shape[1], dtype=torch.float64)
    for row, count in enumerate(copies.long()):
        columns = torch.arange(inputs.shape[1]).repeat_interleave(count)
        if not len(columns):
            continue
        penalty = RIDGE**0.5 * torch.eye(len(columns), dtype=torch.float64)
        stacked = torch.cat([inputs[:, columns], penalty])
        right = torch.cat([lacking[:, row], penalty.new_zeros(len(columns))])
        weights = torch.linalg.lstsq(stacked, right[:, None]).solution[:, 0]
        solution[row].index_add_(0, columns, weights)
    return solution


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> bool:
    return bool((found.double() - wanted).abs().max() <= tolerance * wanted.abs().max())


def all_ways(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Let rows that do not read everything be solved in one ``way``."""
    if way == "gradients":
        monkeypatch.setattr(least_squares, "_CG_COST", 0)
        monkeypatch.setattr(least_squares, "_SHORT", 0)
        monkeypatch.setattr(gradients, "CG_TOLERANCE", 1e-5)
    elif way == "one at a time":
        monkeypatch.setattr(least_squares, "_BLOCK", 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["short", "gradients", "one at a time"])
def test_the_normal_equations_give_the_ridge_solution(
    kind: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_ways(monkeypatch, way)
    inputs, lacking = problem()
    copies = copies_of(kind)
    found = GramSystem(inputs.T @ inputs, RIDGE).solve(lacking.T @ inputs, copies)
    assert found.dtype == torch.float64
    assert close(found, expected(inputs, lacking, copies), 1e-3 if way == "gradients" else 1e-9)
    assert not found[copies == 0].any()


@pytest.mark.parametrize("kind", KINDS)
def test_few_samples_give_the_ridge_solution(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "CG_TOLERANCE", 1e-6)
    inputs, lacking = problem(samples=9)
    copies = copies_of(kind)
    found = solve_samples(inputs.float(), lacking.float(), copies, RIDGE)
    assert close(found, expected(inputs, lacking, copies), 1e-3)
    assert not found[copies == 0].any()


def scaled_problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return Gram matrix, cross product and copies, divided by λ in fp32, and the solution."""
    inputs, lacking = problem()
    copies = copies_of("zeros")
    gram, cross = ((x / RIDGE).float() for x in (inputs.T @ inputs, lacking.T @ inputs))
    return gram, cross, copies, expected(inputs, lacking, copies)


def solved(product, diagonal: torch.Tensor, *right: torch.Tensor) -> torch.Tensor:
    return conjugate_gradients(product, Preconditioner.of(product, diagonal), *right)


@pytest.mark.parametrize("rank", [0, 3, 64])
def test_gradients_reach_their_tolerance(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gram, cross, copies, wanted = scaled_problem()
    monkeypatch.setattr(gradients, "RANK", rank)
    errors = []
    for tolerance in (3e-1, 1e-3, 1e-6):
        monkeypatch.setattr(gradients, "CG_TOLERANCE", tolerance)
        found = solved(lambda x: x @ gram, gram.diagonal(), cross, copies)
        assert not found[copies == 0].any()
        errors.append(float((found - wanted).abs().max() / wanted.abs().max()))
    # The residual is measured in the norm of the preconditioner: at rank 0 that says less.
    assert errors[2] < 2e-5 and errors[1] < (1e-2 if rank else 5e-2)
    assert errors[2] < errors[1] < errors[0]


def test_numbers_that_overflow_give_no_correction() -> None:
    gram, cross, copies, _ = scaled_problem()
    gram = gram * 1e38 * 1e10
    found = solved(lambda x: x @ gram, gram.diagonal(), cross, copies)
    assert not found.any()


def test_a_row_does_not_depend_on_the_others() -> None:
    """Rows that converge leave early, whatever their scale."""
    gram, cross, copies, _ = scaled_problem()
    cross[0] = 0
    cross[1] *= 1e30
    together = solved(lambda x: x @ gram, gram.diagonal(), cross, copies)
    assert together.isfinite().all() and not together[0].any()
    for row in range(1, len(cross)):
        one = slice(row, row + 1)
        alone = solved(lambda x: x @ gram, gram.diagonal(), cross[one], copies[one])
        assert close(together[one], alone.double(), 1e-2)


def test_gradients_end_after_so_many_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    gram, cross, copies, _ = scaled_problem()
    rounds = []

    def product(delta: torch.Tensor) -> torch.Tensor:
        rounds.append(1)
        return delta @ gram

    solved(product, gram.diagonal(), cross, copies)
    before = len(rounds)
    rounds.clear()
    monkeypatch.setattr(gradients, "CG_TOLERANCE", 0.0)
    monkeypatch.setattr(gradients, "CG_ROUNDS", 3)
    monkeypatch.setattr(gradients, "RANK", 1)
    solved(product, gram.diagonal(), cross, copies)
    for_the_preconditioner = gradients._PASSES + 1
    assert len(rounds) == 3 + for_the_preconditioner
    assert before > for_the_preconditioner
