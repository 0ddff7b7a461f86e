"""The network of the dataset's paper: two DenseNet201, one for the field and one for its segmented leukocytes.

After Ghaderzadeh et al., Int J Intell Syst 2022 (doi 10.1002/int.22753): both see 224×224 pixels, their features are
put side by side before the classes' layer. Here the segmented channel is the leukocytes on plain glass.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import densenet201

from models.architectures.network import FieldNetwork, Learner, Output

TAPPED: Final = ("transition1", "transition2")
"""Parts whose means over the field make its embedding."""


class TwoChannelDenseNet201(FieldNetwork):
    """Both views, of the same size, through a DenseNet201 each."""

    def __init__(
        self,
        mean: tuple[float, float, float],
        deviation: tuple[float, float, float],
        classes: int,
        *,
        dropout: float = 0.2,
    ) -> None:
        super().__init__(mean, deviation)
        self.segmented: nn.Sequential = densenet201(weights=None).features
        self.original: nn.Sequential = densenet201(weights=None).features
        features = 2 * self.segmented.get_submodule("norm5").num_features
        self.classify = nn.Linear(int(features), classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, cells: Tensor, fields: Tensor) -> Output:
        """Leukocytes and whole fields (N, 3, S, S), scaled, to Output."""
        segmented = functional.relu(self.segmented(cells))
        means: list[Tensor] = []
        for name, part in self.original.named_children():
            fields = part(fields)
            if name in TAPPED:
                means.append(fields.mean((2, 3)))
        features = torch.cat([segmented, functional.relu(fields)], dim=1)
        class_maps = functional.conv2d(features, self.classify.weight[:, :, None, None], self.classify.bias)
        logits = self.classify(self.dropout(features.mean((2, 3))))
        return Output(logits, torch.cat(means, dim=1), (class_maps,), logits[:, None])

    def describe(self, fields: Tensor) -> Tensor:
        """(N, 3, S, S) to embeddings (N, E)."""
        means: list[Tensor] = []
        for name, part in self.original.named_children():
            fields = part(fields)
            if name in TAPPED:
                means.append(fields.mean((2, 3)))
            if name == TAPPED[-1]:
                break
        return torch.cat(means, dim=1)

    def learners(self) -> tuple[Learner, ...]:
        """Both channels together."""
        channels = zip(self.segmented.children(), self.original.children(), strict=True)
        start = (part for pair in channels for part in pair)  # the first blocks of both are frozen first
        return (Learner(name="both", module=self, inputs=("cells", "field"), logits=self._logits, start=tuple(start)),)

    def _logits(self, cells: Tensor, fields: Tensor) -> Tensor:
        return self.forward(cells, fields).logits
