from __future__ import annotations

import numpy as np
import pytest

from imaging.histograms import picked, pixels_of_each


@pytest.mark.parametrize("labels", [4, 255, 256, 3000])
def test_labels_are_counted_and_picked_however_many_there_are(labels: int) -> None:
    image = np.random.default_rng(labels).integers(0, labels + 1, (70, 90), dtype=np.int32)
    image[0, 0] = labels
    counts = pixels_of_each(image)
    assert [int(counts[label]) for label in range(labels + 1)] == [
        (image == label).sum() for label in range(labels + 1)
    ]
    assert counts[labels + 1 :].sum() == 0
    rare = counts < 70 * 90 / (labels + 1)
    assert np.array_equal(picked(image, rare), rare[image])
