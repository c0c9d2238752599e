"""Conjugate gradients for many rows at once, each over columns of its own, on one Gram matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

CG_TOLERANCE = 3e-2
"""Conjugate gradients end when each row's residual is at most this part of its first one."""
CG_ROUNDS = 100
"""Most rounds of conjugate gradients."""
RANK = 64
"""Eigenvectors of the Gram matrix that the preconditioner knows."""
_MORE = 16
"""Further vectors that are iterated so that the known ones are accurate."""
_PASSES = 2
"""Products by the Gram matrix with which they are iterated."""
_LEAVES = 0.75
"""Rows that have converged leave when less than this part of the rows is left."""

Product = Callable[[torch.Tensor], torch.Tensor]
"""Function that multiplies rows, fp32 [rows, columns], by the Gram matrix."""


def conjugate_gradients(
    product: Product, preconditioner: Preconditioner, cross: torch.Tensor, copies: torch.Tensor
) -> torch.Tensor:
    """Solve ``δ (G + penalty) = cross`` for all rows at once, over the columns that each row reads.

    ``product`` multiplies by G, of which ``preconditioner`` was made. ``cross``: fp32 [rows,
    columns]. ``copies``: uint8 [rows, columns]; 0 is a column that the row does not read, and the
    penalty of the others is 1 ÷ copies. So G and ``cross`` are those of least squares, divided
    by λ.

    It ends when the residual of each row, in the norm of the preconditioner, has shrunk to
    :data:`CG_TOLERANCE`, or after :data:`CG_ROUNDS`. Sources: Hestenes & Stiefel 1952; Frangella,
    Tropp & Udell 2023 (a preconditioner of low rank).
    """
    largest = cross.abs().amax(1, keepdim=True)
    cross = cross / torch.where(largest > 0, largest, 1.0)
    result = torch.zeros_like(cross)
    rows = torch.arange(len(cross), device=cross.device)
    read = copies > 0
    penalty = torch.where(read, 1 / copies.clamp(min=1).to(cross.dtype), 0.0)
    inner = preconditioner.inner(read)
    solution, residual = torch.zeros_like(cross), torch.where(read, cross, 0.0)
    direction = preconditioner.applied(residual, read, inner)
    size = first = (residual * direction).sum(1)
    for _ in range(CG_ROUNDS):
        going = size > CG_TOLERANCE**2 * first
        if not bool(going.any()):
            break
        if int(going.sum()) < _LEAVES * len(going):
            result[rows] = solution
            state = (rows, solution, residual, direction, size, first, read, penalty, inner)
            rows, solution, residual, direction, size, first, read, penalty, inner = (
                x[going] for x in state
            )
        moved = torch.where(read, product(direction), 0.0) + penalty * direction
        curvature = (direction * moved).sum(1)
        step = torch.where(curvature > 0, size / curvature, 0.0)[:, None]
        solution += step * direction
        residual -= step * moved
        ahead = preconditioner.applied(residual, read, inner)
        last, size = size, (residual * ahead).sum(1)
        direction = ahead + torch.where(last > 0, size / last, 0.0)[:, None] * direction
    result[rows] = solution
    return result * largest


@dataclass(frozen=True)
class Preconditioner:
    """It is D + D^½ V Vᵀ D^½ on the columns of each row, with D diagonal and V of low rank.

    It is inverted by the formula of Sherman, Morrison & Woodbury.
    """

    vectors: torch.Tensor
    """V, [columns, rank]."""
    root: torch.Tensor
    """The inverse square root of D's diagonal, [columns]."""

    @classmethod
    def of(cls, product: Product, diagonal: torch.Tensor) -> Preconditioner:
        """Approximate the Gram matrix plus 1 by its largest eigenvalues and its ``diagonal``.

        ``product`` multiplies by the Gram matrix. ``diagonal``: fp32 [columns].
        The eigenvalues come from randomised subspace iteration (Halko, Martinsson & Tropp 2011).
        """
        columns = len(diagonal)
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(min(RANK + _MORE, columns), columns, generator=generator)
        basis = drawn.to(diagonal).T
        for _ in range(_PASSES):
            basis = torch.linalg.qr(product(basis.T).T).Q
        small = (basis.T @ product(basis.T.contiguous()).T).double()
        if not bool(small.isfinite().all()):  # eigh would raise; no solution can be found
            return cls(torch.zeros_like(basis[:, :1]), torch.zeros_like(diagonal))
        values, vectors = torch.linalg.eigh((small + small.T) / 2)
        first = max(len(values) - RANK, 0)
        top = values[first:].clamp(min=0).float()
        known = basis @ vectors[:, first:].float()
        rest = (diagonal - known.square() @ top).clamp(min=0) + 1
        return cls(known * top.sqrt() / rest.sqrt()[:, None], rest.rsqrt())

    def inner(self, read: torch.Tensor) -> torch.Tensor:
        """Return the inverse of 1 + VᵀV over the columns of each row, [rows, rank, rank]."""
        rank = self.vectors.shape[1]
        first, second = torch.triu_indices(rank, rank, device=self.vectors.device)
        half = read.to(self.vectors.dtype) @ (self.vectors[:, first] * self.vectors[:, second])
        inner = half.new_empty(len(read), rank, rank)
        inner[:, first, second] = half
        inner[:, second, first] = half
        inner.diagonal(dim1=1, dim2=2).add_(1)
        inverse: torch.Tensor = torch.cholesky_inverse(torch.linalg.cholesky_ex(inner).L)
        return inverse

    def applied(
        self, residual: torch.Tensor, read: torch.Tensor, inner: torch.Tensor
    ) -> torch.Tensor:
        """Return the inverse times the residual of each row, [rows, columns]."""
        scaled = residual * self.root
        known = torch.bmm((scaled @ self.vectors)[:, None], inner)[:, 0]
        return torch.where(read, (scaled - known @ self.vectors.T) * self.root, 0.0)
