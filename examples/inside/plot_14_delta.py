"""
The delta rule, and a value that changes
========================================

Linear attention keeps a matrix in place of a list of slots. A pair of a key and a
value is *added* to it, so a second value of the same key lies on top of the first. The
delta rule (Schlag et al. 2021) looks up what the key finds, and writes the difference:
the new value takes the place of the old one. Both are :class:`~memnets.memories.Linear`
with other gates. Here both learn a task on which it matters, and we watch the matrix.
"""

# %%
# A task in ten lines
# -------------------
#
# Letters are keys and digits are values. A key may come several times; asked for a key,
# the answer is its last value. ``a3 b1 a7 a`` gives ``7``.

from functools import partial

import numpy as np
import torch

import memnets as mn
from memnets.cells import Mixer
from memnets.memories import DeltaNet, LinearAttention
from memnets.models import StackModel
from memnets.training import Symbols
from tasks.symbols import SymbolTask


class LastValue(SymbolTask):
    """Last value: the value that a key was given last."""

    alphabet = "abcdefgh01234567"
    answers = "01234567"
    shortest = 3

    def question(self, random, length):
        pairs = random.integers(8, size=(length // 2, 2))
        pairs[:, 1] += 8  # values come behind the keys in the alphabet
        return np.append(pairs, random.choice(pairs[:, 0]))

    def answer(self, question):
        last = np.flatnonzero(question[:-1] == question[-1])[-1]
        return question[last + 1 : last + 2] - 8


task = LastValue(batch_size=32, max_length=25, test_sets=[(25, 500)], longest=0)
question = task.question(np.random.default_rng(0), 9)
print("".join(task.alphabet[symbol] for symbol in question))

# %%
# Two memories of the same size
# -----------------------------
#
# One layer, two heads, a matrix of 8 x 8 numbers each. A short convolution lets a step
# see the symbol before it, so that the step of a value knows its key.

torch.set_num_threads(1)
batch = task.batch("length_25", 0)


def learned(memory, steps=700):
    """A model with a memory, trained."""
    torch.manual_seed(0)
    model = StackModel(
        task.input_size,
        task.output_size,
        partial(Mixer, access=memory, convolution=2),
        width=32,
        layers=1,
        hidden_size=64,
        labels=True,
        objective=Symbols(),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(steps):
        loss = model.loss(task.batch("train", step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def right(model):
    """Share of right answers."""
    return (model.logits(batch).argmax(-1) == batch.targets).float().mean().item()


delta = learned(DeltaNet(key_size=8, value_size=8, heads=2))
added = learned(LinearAttention(key_size=8, value_size=8, heads=2))
print(f"delta rule {right(delta):.1%}, linear attention {right(added):.1%}")
assert right(delta) > 0.9 > right(added) + 0.1

# %%
# What overwriting is good for
# ----------------------------
#
# Each further value of the asked key makes it harder for a memory that can only add,
# not for the delta rule. What is added stays: the matrices of linear attention grow
# with each pair, where those of the delta rule keep their size.

import matplotlib.pyplot as plt

plt.style.use("memnets.viewing.style")

asked = batch.source[:, -1:]
times = (batch.source[:, :-1] == asked).sum(1)


@torch.no_grad()
def by_times(model):
    """Share of right answers by the number of values that the asked key had."""
    hits = (model.logits(batch).argmax(-1) == batch.targets)[:, 0].float()
    return [hits[times == number].mean().item() for number in range(1, 5)]


@torch.no_grad()
def norms(model):
    """Norm of the matrices after each symbol, mean over questions."""
    with mn.record(model, ["memory"]) as tape:
        model.logits(batch)
    memory = torch.stack(tape.calls("body.cells.0.cells.0.cell.access", "memory"))
    return memory.flatten(2).norm(dim=-1).mean(1)


figure, (shares, sizes) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
both = {"delta rule": (delta, "o-"), "linear attention": (added, "s--")}
for name, (model, mark) in both.items():
    shares.plot(range(1, 5), by_times(model), mark, label=name)
    sizes.plot(norms(model), mark[1:], label=name)
shares.axhline(1 / 8, color="0.6", linewidth=1)
shares.set(xlabel="values that the asked key had", ylabel="share of right answers")
shares.set(xticks=range(1, 5), ylim=(0, 1.05))
shares.legend()
sizes.set(xlabel="symbol of the question", ylabel="norm of the matrices", yscale="log")
plt.show()

once, *_, often = by_times(delta)
print(f"delta rule: {once:.0%} after one value, {often:.0%} after four")
assert often > 0.8 > by_times(added)[-1]

# %%
# Watch it
# --------
#
# *Memory* shows the matrix of each head before and after a symbol. Go to the second
# value of a key: the delta rule takes away what the key found, and adds the new value.

page = mn.view(
    delta,
    task,
    batch=mn.map_state(lambda part: part[:3], batch),
    what_if="none",
    title="The delta rule keeps the last value",
)
page.save("delta.html")

# %%
# The whole family
# ----------------
#
# The memory is one argument here too: see :doc:`/linear` for the others, from retention
# to products of several writes a step. For a longer training:
#
# .. code-block:: sh
#
#    memnets fit --config symbols/delta_net --data=tasks.symbols.MultiQueryRecall
