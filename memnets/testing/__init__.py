"""Laws and Hypothesis strategies for tests of parts, the library's and your own.

One line checks a part of your own::

    from memnets import testing

    def test_leaky():
        testing.check_controller(Leaky, hidden_size=8)

A check makes the part many times and tests the laws of its kind on inputs that Hypothesis draws.
The first law is that the part can be made and run once; if it fails, no other law is tested.
Otherwise the error describes each law that does not hold. Laws of all kinds of parts:

- inputs are never modified, and nothing that a call keeps on self changes a later one;
- batch neighbours never change a result;
- results are the same with and without gradients, and in training and evaluation (except for parts
  that draw at random);
- results have the precision of the part;
- gradients are those of finite differences;
- a ``state_dict`` restores the results;
- of cells and models, an intervention (:mod:`memnets.viewing.interventions`) reaches its step and
  none before it, and a run that is repeated without one is the same, bit for bit;
- of cells and models, ``torch.compile`` makes one graph with the same values and gradients. For
  this law dropout is off: a graph may draw other numbers.

Cells, memories and models never make the host wait for a device: a GPU is fast only if Python runs
ahead of it. :func:`no_synchronisation` finds such places in any code.

Leave out a law that a part should not keep: for example ``leave_out=["finite_differences"]`` for a
draw with a straight-through gradient. The error for an unknown name lists all laws. ``dtypes`` are
the floating-point types besides float64 that a part must support, and ``masked=False`` is for a
part without masks. A warning names a law that could not be tested.

With ``max_examples=10`` a check takes a few seconds on one core; with Hypothesis' default of 100 it
takes 5 to 10 times as long. Slow laws are tested on a few examples at most. ``max_examples=3`` is
enough while you write a part.

:func:`check_growth` tests one thing more, for a cell or a model with a memory that grows: what it
keeps for the backward pass must not grow faster than the number of steps.

:func:`check_program` tests a memory that is a data structure, such as a stack: told exactly what to
do, it must read what a machine of plain Python reads, after each step of any program.

Needs Hypothesis: ``python -m pip install 'memnets[testing]'``.
"""

from memnets.testing import _needs as _needs
from memnets.testing.accesses import check_access
from memnets.testing.addressing import check_addressing, check_normalizer, check_score
from memnets.testing.cells import check_cell, check_controller
from memnets.testing.encoders import check_decoding, check_encoder
from memnets.testing.growth import check_growth, kept_for_backward
from memnets.testing.linear import check_linear
from memnets.testing.models import check_model, check_pointer
from memnets.testing.objectives import check_kernel, check_objective
from memnets.testing.positions import check_positions
from memnets.testing.programs import CERTAIN, check_program
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
from memnets.testing.waiting import no_synchronisation

__all__ = [
    "CERTAIN",
    "allocating_queries",
    "check_access",
    "check_addressing",
    "check_cell",
    "check_controller",
    "check_decoding",
    "check_encoder",
    "check_growth",
    "check_kernel",
    "check_linear",
    "check_model",
    "check_normalizer",
    "check_objective",
    "check_pointer",
    "check_positions",
    "check_program",
    "check_score",
    "check_task",
    "kept_for_backward",
    "linked_queries",
    "magnitude",
    "masks",
    "memories",
    "no_synchronisation",
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
