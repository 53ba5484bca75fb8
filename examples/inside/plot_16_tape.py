"""
A tape that moves
=================

The head of a Turing machine writes, then goes a place to the left or to the right. So
does the memory of the Tape-RNN (Deletang et al. 2023), by degrees: the tape moves under
a head that stands still. Here a tape reverses strings as well, in its own way: it goes
right while it reads, and back while it answers. A stack forgets what it pops; a tape
keeps it until it is written over.
"""

# %%
# A task and a machine
# --------------------
#
# The tape is a circle of 16 places. The controller remembers nothing.

from functools import partial

import torch

import memnets as mn
from memnets.cells import FeedForward
from memnets.memories import MovingTape
from memnets.memories.moving import MOVES
from memnets.training import Symbols
from tasks.symbols import Reversal

torch.set_num_threads(1)
torch.manual_seed(0)
task = Reversal(batch_size=32, max_length=10, test_sets=[(100, 50)], longest=0)
places = MovingTape(slots=16, width=8)
controller = partial(FeedForward, hidden_size=64)
sizes = task.input_size, task.output_size
model = mn.MemoryMachine(*sizes, controller, places, objective=Symbols())

optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for step in range(800):
    places.noise = 2.0 if step > 400 else 0.0
    loss = model.loss(task.batch("train", step))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.eval()

places.slots = 128
batch = task.batch("length_100", 0)
with torch.no_grad():
    right = model.logits(batch).argmax(-1) == batch.targets
print(f"100 letters: {right.float().mean():.2%} of the letters right")
assert right.float().mean() > 0.97

# %%
# Where the head goes
# -------------------
#
# The tape moves, and the head stays on slot 0. To draw a tape that stands still, we
# roll it back by the moves: the black line is the head.

import matplotlib.pyplot as plt

plt.style.use("memnets.viewing.style")

string = "01101000"
places.slots = 16
asked = task.asked([string])
with torch.no_grad(), mn.record(model, kinds=None) as tape:
    answer = model.logits(asked).argmax(-1)
(said,) = task.says(asked, answer)
print(string, "->", said)
assert said == string[::-1]

moves = torch.stack(tape.calls("body.access", "moves"))[:, 0, 0]
memory = torch.stack(tape.calls("body.access", "memory"))[:, 0]
step_of = torch.tensor([-1, 1, 0])  # left, right, stay
head = step_of[moves.argmax(-1)].cumsum(0)
still = torch.stack(
    [row.roll(int(place), 0) for row, place in zip(memory, head, strict=True)]
)
print("moves:", " ".join(MOVES[move] for move in moves.argmax(-1)))

written = torch.stack(tape.calls("body.access", "written"))[:8, 0, 0]
zeros = torch.tensor([letter == "0" for letter in string])
best = (written[zeros].mean(0) - written[~zeros].mean(0)).abs().argmax()
middle = 4  # row of place 0 in the picture
image_of = still[..., best].roll(middle, 1).T

figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
image = axes.imshow(image_of, aspect="auto", cmap="coolwarm", vmin=-1, vmax=1)
axes.plot(range(16), (head + middle) % 16, "o-", color="black", markersize=4)
axes.set_xticks(range(16), [*string, *(f"→{letter}" for letter in said)])
axes.set_yticks([0, 4, 15], [-4, 0, 11])
axes.set(xlabel="letter read, then → letter answered", ylabel="place on the tape")
axes.set_title("the tape after each step: one number of each place; black, the head")
figure.colorbar(image, ax=axes, label="number")
plt.show()

# %%
# A jump that the machine does not earn
# -------------------------------------
#
# The published machine may also jump by the length of the source, which it is told
# before it begins: ``MovingTape(jumps=True)``. So it can copy: after the string, it
# jumps back to the start. A tape without jumps cannot be there in time; a queue can.
# See :doc:`/stacks`.
#
# .. code-block:: sh
#
#    memnets fit --config symbols/moving_tape
