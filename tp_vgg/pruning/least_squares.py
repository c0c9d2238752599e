"""Ridge regressions in closed form, for many outputs that may each read other columns.

All of them minimise, for each output row, ``‖X δ − r‖² + λ ‖δ‖²`` over the columns that the row
reads. ``X`` has a row for each sample; ``r`` is what the output lacks there; both are centred, so
that a bias is free of the penalty.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from tp_vgg.pruning.conjugate_gradients import Preconditioner, conjugate_gradients

_BLOCK = 1 << 23
"""Most elements of a block of rows that are solved together: 64 MB in fp64."""
_SHORT = 128
"""Most columns that a row reads if it has a factor of its own whatever that costs."""
_CG_COST = 1
"""A row's own factor is as fast as conjugate gradients if the cube of the columns that it reads is
so many times the square of all columns; measured with 4,608 columns on 2 CPU cores."""


@dataclass(frozen=True)
class GramSystem:
    """A Gram system is the left side of normal equations; it is solved for many right sides."""

    gram: torch.Tensor
    """XᵀX, fp64 [columns, columns]."""
    ridge: float
    """The penalty λ, above 0."""

    def solve(self, cross: torch.Tensor, copies: torch.Tensor) -> torch.Tensor:
        """Return the corrections δ, fp64 [rows, columns].

        ``cross``: rᵀX, fp64 [rows, columns]. ``copies``: uint8 [rows, columns], how often a row
        reads a column: 0 is never, and such a δ is 0. A column that stands for m equal ones takes
        the sum of their corrections, whose penalty is λ/m.

        Rows that read everything share one Cholesky factor. A row that reads few columns has a
        factor of its own, of those columns; rows between the two are solved by conjugate gradients
        in fp32 (:data:`~tp_vgg.pruning.conjugate_gradients.CG_TOLERANCE`).
        """
        gram, ridge = self.gram, self.ridge
        solution = torch.zeros_like(cross)
        most = copies.amax() if copies.numel() else copies.new_tensor(1)
        full = (copies == most).all(1) & (most > 0)
        if full.any():
            factor = _cholesky(gram, ridge / most.to(gram.dtype).expand(len(gram)))
            solution[full] = torch.cholesky_solve(cross[full].T, factor).T
        reads = (copies > 0).sum(1)
        is_short = reads.double() ** 3 < max(_CG_COST * float(len(gram)) ** 2, _SHORT**3)
        order = reads.argsort()
        short = order[(is_short & ~full & (reads > 0))[order]]
        while len(short):
            # Rows of similar length go together; the longest of them sets the size of the block.
            longest = int(reads[short[-1]])
            count = max(1, _BLOCK // longest**2)
            rows, short = short[-count:], short[:-count]
            solution[rows] = _solve_short(gram, cross[rows], copies[rows], ridge, longest)
        long = order[(~is_short & ~full)[order]]
        if len(long):
            for rows in long.split(max(1, _BLOCK // len(gram))):
                right = (cross[rows] / ridge).float()
                solution[rows] = conjugate_gradients(
                    self._product, self._preconditioner, right, copies[rows]
                ).double()
        return solution

    @cached_property
    def scaled(self) -> torch.Tensor:
        """Return XᵀX divided by λ, fp32."""
        return (self.gram / self.ridge).float()

    @cached_property
    def _preconditioner(self) -> Preconditioner:
        return Preconditioner.of(self._product, self.scaled.diagonal())

    def _product(self, delta: torch.Tensor) -> torch.Tensor:
        return delta @ self.scaled


def _cholesky(gram: torch.Tensor, ridge: torch.Tensor) -> torch.Tensor:
    shifted = gram.clone()
    shifted.diagonal(dim1=-2, dim2=-1).add_(ridge)
    factor: torch.Tensor = torch.linalg.cholesky_ex(shifted).L
    return factor


def _solve_short(
    gram: torch.Tensor, cross: torch.Tensor, copies: torch.Tensor, ridge: float, longest: int
) -> torch.Tensor:
    """Solve rows that read at most ``longest`` columns each, all in one batch."""
    columns = (copies > 0).to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :longest]
    read = copies.gather(1, columns)
    used = read > 0
    system = gram[columns[:, :, None], columns[:, None, :]]
    system.mul_(used[:, :, None]).mul_(used[:, None, :])
    # Places that a shorter row does not need get the equation δ = 0.
    penalty = ridge / read.clamp(min=1).to(system.dtype)
    factor = _cholesky(system, torch.where(used, penalty, 1.0))
    right = torch.where(used, cross.gather(1, columns), 0.0)
    found = torch.cholesky_solve(right[:, :, None], factor)[:, :, 0]
    return torch.zeros_like(cross).scatter_(1, columns, found.mul_(used))


def solve_samples(
    inputs: torch.Tensor, lacking: torch.Tensor, copies: torch.Tensor, ridge: float
) -> torch.Tensor:
    """Return the corrections δ [rows, columns] where there are fewer samples than columns.

    ``inputs``: X, fp32 [samples, columns]. ``lacking``: r, fp32 [samples, rows]. ``ridge`` is λ and
    ``copies`` that of :meth:`GramSystem.solve`. Rows that read all columns take the dual form
    δ = rᵀ (XXᵀ + λI)⁻¹ X, solved in fp64; the others conjugate gradients with products by X, in
    fp32.
    """
    solution = inputs.new_empty(lacking.shape[1], inputs.shape[1])
    most = copies.amax()
    full = (copies == most).all(1)
    if full.any():
        kernel = (inputs @ inputs.T).double()
        factor = _cholesky(kernel, (ridge / most.double()).expand(len(kernel)))
        dual = torch.cholesky_solve(lacking[:, full].double(), factor)
        solution[full] = dual.float().T @ inputs
    others = (~full).nonzero()[:, 0]
    if len(others):
        scaled: torch.Tensor = inputs / ridge**0.5

        def product(delta: torch.Tensor) -> torch.Tensor:
            return (delta @ scaled.T) @ scaled

        preconditioner = Preconditioner.of(product, scaled.square().sum(0))
        for rows in others.split(max(1, _BLOCK // inputs.shape[1])):
            right = (lacking[:, rows].T / ridge**0.5) @ scaled
            solution[rows] = conjugate_gradients(product, preconditioner, right, copies[rows])
    return solution
