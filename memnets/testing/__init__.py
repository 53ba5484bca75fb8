"""Laws and Hypothesis strategies with which to test parts, the library's and your own.

One line checks a part of your own::

    from memnets import testing

    def test_leaky():
        testing.check_controller(Leaky, hidden_size=8)

Each check makes the part many times, and tests laws of its kind on inputs that Hypothesis draws.
The first law is that the part can be made and run once; if it can't, that is all that is said.
Otherwise the message names every law that broke, with what was found. Laws of all kinds of parts:

- inputs are never modified, and nothing that a call keeps on self changes a later one;
- batch neighbours never change a result;
- the numbers are the same without gradients as with them, and in training as in evaluation (but
  for parts that draw at random);
- results have the precision of the part;
- gradients are those of finite differences;
- a ``state_dict`` brings the numbers back.

A part that is not meant to keep a law leaves it out by its name, for instance a draw with a
straight-through gradient ``leave_out=["finite_differences"]``; an unknown name gets the list of
those that there are.
``dtypes`` are the types of less than double precision that a part knows, and ``masked=False`` says
that it knows no masks. A law that could not be tested is told by a warning.

With ``max_examples=10`` a check takes a few seconds on one core, with Hypothesis' own 100 some 5 to
10 times as long; a law that takes long is tested on a few examples at most. ``max_examples=3`` is
enough while one writes.

Needs Hypothesis: ``python -m pip install 'memnets[testing]'``.
"""

from memnets.testing import _needs as _needs
from memnets.testing.addressing import check_addressing, check_normalizer, check_score
from memnets.testing.encoders import check_decoding, check_encoder
from memnets.testing.objectives import check_kernel, check_objective
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
from memnets.testing.tasks import check_task

__all__ = [
    "allocating_queries",
    "check_access",
    "check_addressing",
    "check_controller",
    "check_decoding",
    "check_encoder",
    "check_kernel",
    "check_model",
    "check_normalizer",
    "check_objective",
    "check_pointer",
    "check_score",
    "check_task",
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
