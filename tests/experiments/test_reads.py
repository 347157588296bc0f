"""How well a reader reads, by hand."""

import numpy as np
import pytest

from experiments import reads


def test_reading_by_hand():
    found = np.array([[-1, 4, 5, 6], [-1, 4, 5, -2], [-1, 7, 8, 9], [-1, 1, 2, 3]])
    likelihood = np.array([[-9.0, -3, -1, -2], [-9, -5, -6, 0], [-9, -8, -7, -6], [-6, -5, -4, -3]])
    has = np.array(
        [[False, True, False, False], [False, True, False, True], [False] * 4, [True] * 4]
    )
    figures = reads.reading(found, likelihood, has)
    # The third has no holder, the last nothing else; what is not there is not the likeliest.
    assert figures["mixed_lists"] == 0.5
    assert figures["likeliest_holds"] == 0.5
    assert figures["holds_by_chance"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert figures["nats_a_span_of_the_best_holder"] == pytest.approx((6 + 4 + 3) / 3)
