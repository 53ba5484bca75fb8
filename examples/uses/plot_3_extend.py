"""
Extend: a score, a controller, a memory and a task of your own
==============================================================

A part of your own is a class in a file of yours. It goes wherever one of the
library's goes: into Python code, and into a YAML or a flag by its class path. Here
are four, each about as short as its equation. Two of them then learn something
together: a stack learns to say a sequence backwards.
"""

# %%
# A score
# -------
#
# How well a key answers a query. Attention then is :class:`memnets.addressing.Content`
# with that score.

import torch
from torch import Tensor, nn

from memnets import testing
from memnets.addressing import Content
from memnets.core import Memory, Score


class Laplace(Score):
    """Minus the mean distance between the numbers of query and key."""

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        return -(query.unsqueeze(-2) - keys.unsqueeze(-3)).abs().mean(-1)


testing.check_score(Laplace, max_examples=5)

attention = Content(Laplace())
keys = 20 * torch.eye(4)
weights, _ = attention(
    keys[2:3], Memory(keys=keys, values=torch.arange(4.0).unsqueeze(1))
)
print(
    "weights of a query that is key 2:",
    [round(weight, 3) for weight in weights[0].tolist()],
)
assert weights.argmax() == 2

# %%
# A controller
# ------------
#
# A network that takes steps. It may be part of a machine, of an encoder or of a
# decoder.

from memnets.core import Controller


class Leaky(Controller[Tensor]):
    """h_t = (1 - rate) h_{t-1} + rate tanh(W [x_t, h_{t-1}])."""

    def __init__(self, input_size: int, hidden_size: int, rate: float = 0.5) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.rate = input_size, hidden_size, rate
        self.layer = nn.Linear(input_size + hidden_size, hidden_size)

    def initial_state(self, batch_size: int) -> Tensor:
        return self.layer.weight.new_zeros(batch_size, self.hidden_size)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        new = self.layer(torch.cat([inputs, state], -1)).tanh()
        state = state + self.rate * (new - state)
        return state, state


testing.check_controller(Leaky, hidden_size=8, max_examples=5)

# %%
# A memory
# --------
#
# A stack: each step pushes a vector, pops one or stays, or does a bit of each (Joulin &
# Mikolov 2015). ``Slotted`` is the base of memories with N slots: it makes the first
# memory, ``[B, N, W]``.

from memnets.memories import Slotted


class Stack(Slotted[Tensor]):
    """Push, pop or stay; the state is ``[B, N, W]``, the top first."""

    def __init__(self, slots: int = 32, width: int = 10) -> None:
        super().__init__(slots, width)
        self.interface_size, self.read_size = 3 + width, width

    def initial_state(self, batch_size: int) -> Tensor:
        return self.first_memory(batch_size)

    def forward(self, interface: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        push, pop, stay = interface[:, :3].softmax(-1)[..., None, None].unbind(1)
        pushed = torch.cat([interface[:, None, 3:].sigmoid(), state[:, :-1]], 1)
        popped = torch.cat([state[:, 1:], torch.zeros_like(state[:, :1])], 1)
        state = push * pushed + pop * popped + stay * state
        return state[:, 0], state


testing.check_access(Stack, slots=5, width=3, max_examples=5)

# %%
# A task
# ------
#
# A task gives batches; here it is copy, with the answers turned around.

from memnets.batches import Batch
from tasks import Copying


class Reversing(Copying):
    """See vectors, say the last one first."""

    def batch(self, split: str, index: int) -> Batch:
        batch = super().batch(split, index)
        size, steps, _ = batch.targets.shape
        mask = (
            torch.ones(size, steps) if batch.target_mask is None else batch.target_mask
        )
        order = (mask.sum(1, keepdim=True).long() - 1 - torch.arange(steps)) % steps
        return batch._replace(
            targets=batch.targets.take_along_dim(order.unsqueeze(-1), 1)
        )


# %%
# Together
# --------
#
# A machine of a feed-forward controller, which remembers nothing, on the stack.
# Training it needs no trainer: ``model.loss(batch)`` is a scalar.

from functools import partial

from memnets.cells import FeedForward
from memnets.models import MemoryMachine

torch.manual_seed(0)
task = Reversing(width=8, max_length=20, test_sets=[(8, 100), (30, 100)])
machine = MemoryMachine(
    task.input_size,
    task.output_size,
    controller=partial(FeedForward, hidden_size=100),
    access=Stack(),
)
steps = 600
optimizer = torch.optim.Adam(machine.parameters(), lr=0.005)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
losses = []
for step in range(steps):
    loss = machine.loss(task.batch("train", step))
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(machine.parameters(), 0.02)
    optimizer.step()
    schedule.step()
    losses.append(loss.item())


@torch.no_grad()
def right(name):
    """Share of the bits of a test set that are right."""
    batch = task.batch(name, 0)
    return ((machine.logits(batch) > 0) == (batch.targets > 0.5)).float().mean().item()


print(f"right at length 8: {right('length_8'):.1%}, at 30: {right('length_30'):.1%}")
assert right("length_8") > 0.95

# %%
# What the controller does with the stack can be seen in the interface that it gives: it
# pushes while the sequence comes, and pops while it answers. Nobody told it to.

import matplotlib.pyplot as plt

batch = task.batch("length_8", 0)
sequence = torch.cat([batch.source, batch.inputs], 1)[:1]
interfaces = []
handle = machine.interface.register_forward_hook(
    lambda *call: interfaces.append(call[-1])
)
with torch.no_grad():
    machine(sequence)
handle.remove()
actions = torch.stack([interface[0, :3] for interface in interfaces]).softmax(-1)

figure, (left, panel) = plt.subplots(
    1, 2, figsize=(9, 2.6), layout="constrained", width_ratios=(1, 1.6)
)
left.plot(losses, color="C0", linewidth=0.8)
left.set(xlabel="step of the training", ylabel="loss", yscale="log")
for name, weights in zip(("push", "pop", "stay"), actions.T):
    panel.plot(weights, "o-", label=name)
panel.axvline(batch.source.shape[1] - 0.5, color="0.4", linestyle="--")
panel.set(xlabel="step (dashed: the answer begins)", ylabel="share")
panel.legend()
plt.show()

assert actions[:8, 0].mean() > 0.5
assert actions[10:, 1].mean() > 0.5

# %%
# Pictures of weights, as in the other tutorials, show each
# :class:`memnets.core.Addressing` of a model. This stack has none.
#
# The same from the command line
# ------------------------------
#
# With ``Stack`` and ``Reversing`` in a file ``my_parts.py`` in the folder where you
# are:
#
# .. code-block:: sh
#
#    memnets fit --config copying/ntm --name=reversing/stack \
#        --data=my_parts.Reversing --model.access=my_parts.Stack \
#        --model.controller=memnets.cells.FeedForward \
#        --trainer.callbacks=[] --trainer.max_steps=1000
