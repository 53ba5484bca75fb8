"""Laws and Hypothesis strategies with which to test parts, the library's and your own.

One line checks a part of your own::

    from memnets import testing

    def test_leaky():
        testing.check_controller(Leaky, hidden_size=8)

Needs Hypothesis: ``pip install memnets[testing]``.
"""

from memnets.testing.addressing import check_addressing, check_normalizer, check_score
from memnets.testing.steps import check_access, check_controller, check_model, check_pointer
from memnets.testing.strategies import (
    allocating_queries,
    linked_queries,
    magnitude,
    masks,
    memories,
    ntm_queries,
    queries,
    seeds,
    shapes,
    sharp_queries,
    shift_kernels,
    sizes,
    tensors,
    tokens,
    weights,
)

__all__ = [
    "allocating_queries",
    "check_access",
    "check_addressing",
    "check_controller",
    "check_model",
    "check_normalizer",
    "check_pointer",
    "check_score",
    "linked_queries",
    "magnitude",
    "masks",
    "memories",
    "ntm_queries",
    "queries",
    "seeds",
    "shapes",
    "sharp_queries",
    "shift_kernels",
    "sizes",
    "tensors",
    "tokens",
    "weights",
]
