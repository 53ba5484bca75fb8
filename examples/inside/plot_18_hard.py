"""
A hard machine at 100,000 vectors
=================================

The heads of a Neural Turing Machine are *soft*: each is on all slots at once, a bit
more here and a bit less there. That is how it can learn. But at each step a little of
the weight slips to the neighbours, and a step takes the longer the more slots there
are. A *hard* head is on one slot. Here one machine copies both ways.
"""

# %%
# A machine made by hand
# ----------------------
#
# To see what the heads do, we set the weights ourselves; nothing is trained. The task
# is that of the :doc:`first page </gallery/inside/plot_01_copy>`: some vectors, a flag,
# and then the vectors are to be said again. The controller is an LSTM with a cell for
# each bit, one that keeps that the flag has come, and one for the flag itself.

from functools import partial

import torch

import memnets as mn
from tasks import Copying

torch.set_num_threads(1)
WIDTH = 4
machine = mn.MemoryMachine(
    WIDTH + 1,
    WIDTH,
    controller=partial(mn.LSTM, hidden_size=WIDTH + 2),
    access=mn.NTM(slots=128, width=WIDTH),
).eval()
access, interface = machine.access, machine.interface
bits, came, now = slice(WIDTH), WIDTH, WIDTH + 1  # the cells, and the flag is input 4
SURE = 30.0

with torch.no_grad():
    for parameter in machine.parameters():
        parameter.zero_()
    lstm = machine.controller.lstm
    enter, forget, candidate, leave = lstm.weight_ih_l0.unflatten(0, (4, -1))
    to_enter, to_forget, to_candidate, to_leave = lstm.bias_ih_l0.unflatten(0, (4, -1))
    to_leave.fill_(SURE)
    to_enter.fill_(SURE)
    to_forget.fill_(-SURE)
    candidate[bits, bits] = 2 * SURE * torch.eye(WIDTH)  # a bit: -1 or 1
    candidate[now, WIDTH] = 2 * SURE
    to_candidate.fill_(-SURE)
    enter[came, WIDTH] = 2 * SURE  # opens for the flag alone, and then keeps it
    to_enter[came], to_forget[came], to_candidate[came] = -SURE, SURE, SURE

# %%
# The interface says how the heads move. The head that writes takes a step forward each
# time. The head that reads stays on the first slot until the flag has come, and then
# steps too. A step forward has the logit 5, the others 0, so that 99 % of the weight
# goes where it should. No head looks for content, as the gates are closed, and none
# sharpens its weights.

with torch.no_grad():
    _, positive, unit, shift, _ = interface.bias.split(access.layout.sizes)
    positive.fill_(-SURE)  # strengths of content, and sharpness
    unit[:2] = -SURE  # gates
    unit[2:] = SURE  # erase what is there
    read, write = shift.view(2, 3)  # back, stay, forward
    write[2] = read[1] = 5.0
    high = torch.tanh(torch.tensor(1.0))  # of an open cell
    of_read = sum(access.layout.sizes[:3]) + 2
    interface.weight[of_read, came] = 10 / high
    interface.weight[of_read, now] = -10 / high
    interface.bias[of_read] = -10
    interface.weight[-WIDTH:, bits] = torch.eye(WIDTH)  # what is written
    machine.output.weight[:, -WIDTH:] = torch.eye(WIDTH)  # what is said is what is read

# %%
# The same machine, soft and hard
# -------------------------------
#
# ``access.hard`` turns the weights of all heads into exact ones and zeros: the slot of
# the greatest weight takes it all. It may be changed at any time.

import time


@torch.no_grad()
def copied(length, hard):
    """Wrong bits in a hundred, and microseconds of a step."""
    access.slots, access.hard = length + 2, hard
    task = Copying(width=WIDTH, test_sets=[(length, 1)])
    batch = task.batch(f"length_{length}", 0)
    start = time.process_time()
    logits = machine.logits(batch)
    seconds = time.process_time() - start
    wrong = ((logits > 0) != (batch.targets > 0.5)).float().mean()
    return 100 * wrong.item(), 1e6 * seconds / (2 * length + 1)


copied(10, True)  # the first call loads what it needs
soft = {n: copied(n, hard=False) for n in (10, 30, 100, 300, 1000, 3000)}
hard = {n: copied(n, hard=True) for n in (*soft, 10000, 100000)}
for length in hard:
    found = f"{soft[length][0]:.1f}" if length in soft else "?"
    print(
        f"{length:6} vectors, wrong bits: soft {found} %, hard {hard[length][0]:.0f} %"
    )
assert soft[10][0] == 0
assert soft[3000][0] > 20
assert all(wrong == 0 for wrong, _ in hard.values())

# %%
# The soft machine forgets where it is. (One that is trained sharpens its weights, and
# comes further; it still had wrong bits at 5000 vectors.) And its step takes longer in
# a larger memory. The hard one has no wrong bit in 100,000 vectors, and its step takes
# the same time in any memory: a move changes a number, a read takes a slot, and a
# write changes one.

import matplotlib.pyplot as plt

plt.style.use("memnets.viewing.style")

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for name, found in ("soft", soft), ("hard", hard):
    wrong, steps = zip(*found.values())
    left.plot(list(found), wrong, "o-", label=name)
    right.plot(list(found)[3:], steps[3:], "o-", label=name)  # of 300 slots and more
left.axhline(50, color="0.6", linestyle=":")
left.text(10, 51, "a guess", color="0.4")
left.set(xscale="log", ylim=(-3, 57), xlabel="vectors", ylabel="wrong bits in 100")
right.set(xscale="log", yscale="log", xlabel="slots of the memory, one a vector")
right.set_ylabel("microseconds of a step")
left.legend()
right.legend()
plt.show()

# %%
# Where the heads were
# --------------------
#
# Both machines copy 100 vectors. Time goes to the right and slots upwards; dark is
# where a head is. Behind its last slot the memory begins anew. There the write head
# follows the read head, and overwrites what has been said.


@torch.no_grad()
def heads(hard):
    """Weights of the heads over the slots, ``[heads, steps, slots]``."""
    access.slots, access.hard = 102, hard
    task = Copying(width=WIDTH, test_sets=[(100, 1)])
    with mn.record(machine) as tape:
        machine.logits(task.batch("length_100", 0))
    return tape.over_time("body.access.addressing")


figure, rows = plt.subplots(
    2, 2, figsize=(9, 4.5), layout="constrained", sharex=True, sharey=True
)
for column, name in zip(rows.T, ("soft", "hard")):
    column[0].set_title(f"{name} heads")
    read, write = heads(hard=name == "hard")
    for panel, each in zip(column, (write, read)):
        panel.imshow(each.T, origin="lower", cmap="Blues", vmax=0.5, aspect="auto")
        panel.axvline(100.5, color="0.4", linestyle="--")
rows[0, 0].set_ylabel("write head: slot")
rows[1, 0].set_ylabel("read head: slot")
for panel in rows[1]:
    panel.set_xlabel("step; the answer begins at the line")
plt.show()

# sphinx_gallery_thumbnail_number = 2

# %%
# One that has learnt it
# ----------------------
#
# Hard heads learn little from the start: a choice among slots has no slope. So a
# machine learns with soft heads, and takes hard ones in the last part of its training.
#
# .. code-block:: sh
#
#    memnets fit --config copying/hard
#
# trains such a machine on sequences of up to 20 vectors, and tests it with 100,000. See
# :doc:`/hard`.
