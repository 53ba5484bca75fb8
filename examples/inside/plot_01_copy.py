"""
Watch a Neural Turing Machine learn to copy
===========================================

A Neural Turing Machine (Graves et al. 2014) is a network with a memory beside it: a
table of numbers that it reads and writes with *heads*. Here a small one learns to
repeat a sequence of bits, in seconds. Nobody tells it how. On the way we stop it a few
times and look at where its heads are: first nowhere, at the end on a walk along the
memory.
"""

# %%
# The task
# --------
#
# The machine sees some vectors of random bits, then a flag. From then on it sees
# nothing but zeros, and has to say the vectors again. A batch is a function of the
# seed, the split and a number, so there is no data set to download.

import torch

import memnets as mn
from tasks import Copying

torch.set_num_threads(1)  # small models are fastest with one
task = Copying(width=4, max_length=8, test_sets=[(8, 50), (16, 50)])
batch = task.batch("length_8", 0)
first = mn.map_state(lambda part: part[:1], batch)  # one of its sequences
print("source", list(batch.source.shape), "targets", list(batch.targets.shape))

# %%
# The model
# ---------
#
# A memory machine is a *controller*, here an LSTM, and a *memory*, here that of the
# Neural Turing Machine: 24 slots of 8 numbers, with one head that reads and one that
# writes. Either part can be another one of the library, or one of your own.

from functools import partial

torch.manual_seed(0)
machine = mn.MemoryMachine(
    task.input_size,
    task.output_size,
    controller=partial(mn.LSTM, hidden_size=48),
    access=mn.NTM(slots=24, width=8, least_sharpness=1.5),
)

# %%
# The training, with stops
# ------------------------
#
# A step of the training is one batch of random sequences of 1 to 8 vectors. Every 100
# steps the machine copies 50 sequences that it has not seen, and training ends when it
# hardly makes a mistake, one bit in all of them at most. At each stop ``mn.record``
# writes down where its heads are, and ``mn.view`` all that its parts do with the first
# of these sequences.


@torch.no_grad()
def wrong_bits(name):
    """Mean number of wrong bits of a sequence."""
    batch = task.batch(name, 0)
    wrong = (machine.logits(batch) > 0) != (batch.targets > 0.5)
    return wrong.float().flatten(1).sum(1).mean().item()


@torch.no_grad()
def heads():
    """Weights of the heads over the slots, ``[heads, steps, slots]``."""
    with mn.record(machine) as tape:
        machine.logits(batch)
    return tape.over_time("body.access.addressing")


def watched():
    """One sequence on a time line, with all that the parts of the machine do."""
    return mn.view(machine, task, batch=first, what_if="none").examples[0]


optimizer = torch.optim.Adam(machine.parameters(), lr=0.01)
steps, mistakes, weights, seen = 0, [wrong_bits("length_8")], [heads()], [watched()]
while mistakes[-1] > 0.02 and steps < 4000:
    for _ in range(100):
        loss = machine.loss(task.batch("train", steps))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(machine.parameters(), 0.1)
        optimizer.step()
        steps += 1
    mistakes.append(wrong_bits("length_8"))
    weights.append(heads())
    seen.append(watched())
    print(f"after {steps:4} batches, wrong bits of 32: {mistakes[-1]:.2f}")

# %%
# How it learnt
# -------------
#
# At first the answer is a guess, and half of the bits are wrong. Then the machine finds
# how to write and how to read, and within a few hundred batches the mistakes are gone.

import matplotlib.pyplot as plt

plt.style.use("memnets.viewing.style")

figure, panel = plt.subplots(figsize=(6, 2.6), layout="constrained")
panel.plot([100 * stop for stop in range(len(mistakes))], mistakes, "o-")
panel.axhline(16, color="0.6", linestyle=":")
panel.text(0, 16.5, "a guess", color="0.4")
panel.set(xlabel="batches of the training", ylabel="wrong bits of 32", ylim=(-1, 19))
plt.show()

# %%
# Where the heads were
# --------------------
#
# Time goes to the right, slots go upwards, and dark is where a head is. Left of the
# dashed line the sequence comes, right of it the answer.

chosen = [0, len(weights) // 2, len(weights) - 1]
figure, rows = plt.subplots(
    2, 3, figsize=(9, 4.5), layout="constrained", sharex=True, sharey=True
)
for column, stop in zip(rows.T, chosen):
    column[0].set_title(f"after {100 * stop} batches")
    read, write = weights[stop]
    for panel, each in zip(column, (write, read)):
        panel.imshow(
            each.T, origin="lower", cmap="Blues", vmin=0, vmax=1, aspect="auto"
        )
        panel.axvline(batch.source.shape[1] - 0.5, color="0.4", linestyle="--")
rows[0, 0].set_ylabel("write head: slot")
rows[1, 0].set_ylabel("read head: slot")
for panel in rows[1]:
    panel.set_xlabel("step")
plt.show()

# sphinx_gallery_thumbnail_number = 2

# %%
# Before the training both heads smear over the memory. At the end the write head walks
# along the slots while the sequence comes. Then the read head walks along the same
# slots in the same order. A claim about a picture can be checked; here is the slot that
# each head weighs most, step by step:

read, write = weights[-1]
written, found = write[:8].argmax(-1), read[9:].argmax(-1)
print("written:", written.tolist())
print("read:   ", found.tolist())
assert mistakes[0] > 8
assert mistakes[-1] < 0.5
assert (written == found).float().mean() > 0.7

# %%
# Watch it
# --------
#
# The same, step by step: move the slider, or press play. The three stops are side by
# side; the field "runs" shows one alone. *Look at* the answer: at first it is grey, a
# guess. *Look at* the memory: after the training each vector of the sequence goes to a
# slot of its own. *Look at* the shift of the two heads, which says how they move.

from dataclasses import replace

from memnets.viewing.page import Page

stages = [
    replace(seen[stop].runs[0], name=f"after {100 * stop} batches") for stop in chosen
]
page = Page("A Neural Turing Machine learns to copy", [replace(seen[-1], runs=stages)])
page.save("copying.html")

# %%
# Longer than ever seen
# ---------------------
#
# What it has learnt is a *procedure*: write a vector, step on; go back; read a vector,
# step on. So it goes on where its training ended, at 8 vectors.

longer = wrong_bits("length_16")
print(f"sequences of 16 vectors: {longer:.1f} of 64 bits are wrong")
assert longer < 16  # a guess has 32

# %%
# The same, larger, from the command line
# ---------------------------------------
#
# .. code-block:: sh
#
#    memnets fit --config copying/ntm
#    memnets view runs/copying/ntm/version_0
#
# trains the machine of the paper, 128 slots of 20 numbers, on sequences of up to 20
# vectors for about two minutes, and tests it at up to fifty times that length.
# Checkpoints, scores, pictures and such a page are in ``runs/copying/ntm/version_0``
# then.
