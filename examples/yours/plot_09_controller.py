"""
A controller of your own, under laws
====================================

The controller is the network between the input and the memory. Here we write one in ten
lines, and ask ``memnets.testing`` whether it is one: whether it keeps the *laws* that
every part must keep. Then we make the mistakes that people make, and see each of them
found. At last the controller drives the memory of a Neural Turing Machine.
"""

# %%
# A leaky network
# ---------------
#
# Its state forgets a part of itself at each step (Jaeger et al. 2007):
#
# ::
#
#     h_t = (1 - rate) h_{t-1} + rate tanh(W [x_t, h_{t-1}] + b)
#
# A controller says how wide its output is and what its first state is; ``forward`` is
# one step. The state comes in and goes out: nothing is kept on ``self``.

import re

import torch
from torch import Tensor, nn

from memnets.core import Controller


class Leaky(Controller[Tensor]):
    """A recurrent network whose state leaks; the state is ``[B, hidden_size]``."""

    def __init__(self, input_size: int, hidden_size: int, rate: float = 0.5) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.rate = input_size, hidden_size, rate
        self.layer = nn.Linear(input_size + hidden_size, hidden_size)

    def initial_state(self, batch_size: int) -> Tensor:
        return self.layer.weight.new_zeros(batch_size, self.hidden_size)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        new = self.layer(torch.cat([inputs, state], -1)).tanh()
        state = (1 - self.rate) * state + self.rate * new
        return state, state


# %%
# One line checks it; it needs the extra ``testing``. In a file of tests it is the body
# of a test, and without ``max_examples`` it looks harder.

from memnets import testing

torch.set_num_threads(1)
testing.check_controller(Leaky, hidden_size=8, max_examples=3)
print("Leaky keeps every law")

# %%
# Mistakes that people make
# -------------------------
#
# Each is small. The shapes are right and nothing crashes, so it is easy to miss. Each
# is found by the law that it breaks.


class InPlace(Leaky):
    """Changes the state that it was given."""

    def forward(self, inputs, state):
        _, new = super().forward(inputs, state)
        return state.copy_(new), state


class Neighbours(Leaky):
    """Subtracts the mean over the batch: a sequence depends on those beside it."""

    def forward(self, inputs, state):
        output, state = super().forward(inputs, state)
        return output - output.mean(0), state


class Remembers(Leaky):
    """Keeps the mean of the last output on ``self``, and uses it."""

    last = 0.0

    def forward(self, inputs, state):
        output, state = super().forward(inputs, state)
        output, self.last = output + 0.1 * self.last, output.detach().mean()
        return output, state


class OnTheCPU(Leaky):
    """Makes its first state on the CPU in float32, wherever the model is."""

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, self.hidden_size)


def broken_laws(controller):
    """The laws that a controller breaks, but for the one that takes longest."""
    try:
        testing.check_controller(
            controller, hidden_size=8, max_examples=3, leave_out=["compiled"]
        )
    except AssertionError as error:
        return re.findall("law '(.*?)'", str(error))
    return []


laws = {
    InPlace: "a state is never modified in place",
    Neighbours: "batch neighbours never change a result",
    Remembers: "what a call keeps on self never changes a later one",
    OnTheCPU: "a first state has the precision and the device of its part",
}
for controller, law in laws.items():
    found = broken_laws(controller)
    print(f"{controller.__name__} breaks the law: {law}")
    assert law in found

# %%
# It drives a memory
# ------------------
#
# Anything that keeps the laws goes wherever a controller goes. Here is a Neural Turing
# Machine around it, which learns to copy up to six vectors of four bits.

from functools import partial

import memnets as mn
from tasks import Copying

task = Copying(width=4, max_length=6, test_sets=[(6, 50)])


@torch.no_grad()
def right_bits(machine):
    """Share of the bits of the test that are right."""
    batch = task.batch("length_6", 0)
    right = (machine.logits(batch) > 0) == (batch.targets > 0.5)
    return right.float().mean().item()


def trained(seed):
    """A machine, and its share of right bits after each 100 batches."""
    torch.manual_seed(seed)
    machine = mn.MemoryMachine(
        task.input_size,
        task.output_size,
        controller=partial(Leaky, hidden_size=64),
        access=mn.NTM(slots=16, width=8, least_sharpness=1.5),
    )
    shares = [right_bits(machine)]
    optimizer = torch.optim.Adam(machine.parameters(), lr=0.01)
    while shares[-1] < 0.999 and len(shares) < 20:
        for step in range(100):
            loss = machine.loss(task.batch("train", 100 * len(shares) + step))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(machine.parameters(), 1.0)
            optimizer.step()
        shares.append(right_bits(machine))
    return machine, shares


# %%
# So small a machine does not learn from every start; then it begins anew.

for seed in range(6):
    machine, shares = trained(seed)
    if shares[-1] > 0.95:
        break

import matplotlib.pyplot as plt

plt.style.use("memnets.viewing.style")

figure, panel = plt.subplots(figsize=(6, 2.6), layout="constrained")
panel.plot([100 * stop for stop in range(len(shares))], [100 * s for s in shares], "o-")
panel.axhline(50, color="0.6", linestyle=":")
panel.text(0, 51, "a guess", color="0.4")
panel.set(xlabel="batches of the training", ylabel="right bits, %", ylim=(40, 103))
plt.show()

print(f"right bits: {shares[-1]:.1%}")
assert shares[-1] > 0.95

# %%
# Watch it
# --------
#
# ``mn.view`` knows a part of yours as well as one of the library. *Look at* the heads:
# this controller finds a way of its own along the memory.

page = mn.view(
    machine, task, examples=2, what_if="none", title="A leaky controller copies"
)
page.save("controller.html")

# %%
# From the command line
# ---------------------
#
# With ``Leaky`` in a file ``my_parts.py`` in the folder where you are:
#
# .. code-block:: sh
#
#    memnets fit --config copying/ntm --name=copying/leaky \
#        --model.controller=my_parts.Leaky --model.controller.hidden_size=100
#
# The checkpoint then names a class of yours, and opening it runs your file: so
# ``memnets test``, ``view`` and ``predict`` ask for ``--trust``, and ``mn.load`` for
# ``trust=True``.
#
# There is such a check for every kind of part: ``check_score``, ``check_normalizer``,
# ``check_addressing``, ``check_cell``, ``check_controller``, ``check_access``,
# ``check_encoder``, ``check_model``, ``check_pointer``, ``check_decoding``,
# ``check_objective``, ``check_task``, ``check_kernel``. See :mod:`memnets.testing`.
