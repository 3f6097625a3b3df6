"""What training minimises."""

from __future__ import annotations

import torch
from torch import Tensor


def pinball(error: Tensor, levels: Tensor) -> Tensor:
    """Quantile loss, level q: q e where the truth lies e above the forecast, (q - 1) e where below.

    error : (Q, ...) truth minus quantile. levels : (Q,). Source : Koenker & Bassett 1978.
    """
    q = levels.view(-1, *[1] * (error.dim() - 1))
    return torch.maximum(q * error, (q - 1.0) * error)
