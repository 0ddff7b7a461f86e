"""A batch of fields as squares: balanced, and their leukocytes on plain glass. As `imaging.layers` has it for one."""

from __future__ import annotations

import torch
from torch import Tensor

from imaging.batched.stain import blurred, white_balanced, white_point
from imaging.parameters import StainParameters


def balanced(rgb: Tensor) -> Tensor:
    """RGB uint8 (N, 3, h, w) with the empty background moved to white."""
    return white_balanced(rgb, white_point(rgb, None, StainParameters().white_percentile))


def on_glass(rgb: Tensor, cells: Tensor, *, softness: float = 1.0) -> Tensor:
    """Keep the leukocytes, bool (N, h, w), of RGB uint8 (N, 3, h, w), and make all else white."""
    weight = blurred(cells.float() * 255, softness)[:, None]
    front = torch.round(rgb.float() * weight * (1 / 255))
    back = torch.round(255 * (255 - weight) * (1 / 255))
    return (front + back).clamp(0, 255).to(torch.uint8)
