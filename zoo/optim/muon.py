"""Muon for convolution filters and, optionally, for matrices; AdamW for everything else."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from zoo.errors import BadInput
from zoo.ranges import BelowOne, NotNegative, Positive

QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's coefficients: steep at zero, and within 0.7 … 1.2 after five iterations


class Muon(Optimizer):
    """Step along the orthogonalised momentum of each layer's filters, with one row per filter (Jordan, "Muon", 2024).

    Muon updates parameters with four dimensions, with learning rate `lr` (torch.optim.Muon takes only matrices), and
    with `matrices` those with two, except in groups with `tables`, whose rows are independent. AdamW updates all others
    (betas 0.9 and 0.999; bias correction counts a group's steps), with learning rate `other_lr`. Weight decay is
    decoupled for both. Scaled by `lr` · max(1, rows / columns)^½, a step has about the same size in every layer. On
    CUDA, and elsewhere with `bf16`, directions are computed in bf16.
    Raises BadInput if no parameter is updated by Muon.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Positive = 0.02,
        other_lr: Positive = 1e-3,
        momentum: BelowOne = 0.95,
        weight_decay: NotNegative = 0.01,
        matrices: bool = False,
        bf16: bool = False,
    ) -> None:
        given = list(params)
        groups: list[dict[str, Any]] = []
        for group in given if given and isinstance(given[0], dict) else [{"params": given}]:
            dimensions = (2, 4) if matrices and not group.get("tables") else (4,)
            filters = [p for p in group["params"] if p.ndim in dimensions]
            others = [p for p in group["params"] if p.ndim not in dimensions]
            groups.append({**group, "params": filters, "filters": True})
            groups.append({"lr": other_lr, **group, "params": others, "filters": False})
        if not any(group["params"] and group["filters"] for group in groups):
            raise BadInput(
                "optim=muon is for convolution filters, and this net trains none; use optim=adamw, or set "
                "optim.matrices=true to include matrices"
            )
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "betas": (0.9, 0.999), "eps": 1e-8}
        defaults["bf16"] = bf16
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one step; `closure`, if given, computes loss and gradients first, and its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            step = self._step_filters if group["filters"] else self._step_adamw
            if parameters := [p for p in group["params"] if p.grad is not None]:
                step(group, parameters)
        return loss

    def _step_filters(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Update matrices of the same shape together, since one at a time would leave a GPU idle."""
        for p in parameters:
            if not self.state[p]:
                self.state[p] = {"mean": torch.zeros_like(p)}
        gradients = [p.grad for p in parameters if p.grad is not None]
        means = [self.state[p]["mean"] for p in parameters]
        torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, means, group["momentum"])  # Nesterov's
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for p, gradient in zip(parameters, ahead, strict=True):
            alike.setdefault((len(p), p[0].numel()), []).append((p, gradient.flatten(1)))
        for (rows, columns), pairs in alike.items():
            directions = orthogonalise(torch.stack([gradient for _, gradient in pairs]), group.get("bf16", False))
            size = group["lr"] * max(1.0, rows / columns) ** 0.5
            stepped = [direction.view_as(p) for direction, (p, _) in zip(directions, pairs, strict=True)]
            torch._foreach_add_([p for p, _ in pairs], stepped, alpha=-size)

    def _step_adamw(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        (beta1, beta2), lr = group["betas"], group["lr"]
        group["step"] = step = group.get("step", 0) + 1
        gradients = [p.grad for p in parameters if p.grad is not None]
        for p in parameters:
            if not self.state[p]:
                self.state[p] = {"mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
        means, squares = ([self.state[p][name] for p in parameters] for name in ("mean", "square"))
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        sizes = torch._foreach_div(torch._foreach_sqrt(squares), (1 - beta2**step) ** 0.5)
        torch._foreach_add_(sizes, group["eps"])
        torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        torch._foreach_addcdiv_(parameters, means, sizes, -lr / (1 - beta1**step))


def orthogonalise(matrices: Tensor, bf16: bool = False) -> Tensor:
    """Bring all singular values of matrices (N, rows, columns) near 1 by five quintic Newton-Schulz iterations.

    In float32, matrices with one side at least three times as long as the other are multiplied only once, by the
    product of the five polynomials of x·xᵀ, a small matrix. For 3 × 3 filters with as many inputs as outputs, this is
    less than half of the arithmetic. In 16 bits, the rounding errors of that product would grow.
    """
    a, b, c = QUINTIC
    x = matrices.to(torch.bfloat16) if bf16 or matrices.is_cuda else matrices
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    rows, columns = x.shape[-2:]
    if x.dtype.itemsize < 4 or columns < 3 * rows:
        for _ in range(5):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)  # (a + bG + cG²)x
    else:
        gram, product = x @ x.mT, torch.eye(rows, dtype=x.dtype, device=x.device).expand(len(x), rows, rows)
        for _ in range(5):
            polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
            gram, product = polynomial @ gram @ polynomial, polynomial @ product
        x = product @ x
    return (x.mT if tall else x).to(matrices.dtype)
