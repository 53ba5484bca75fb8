"""
A stack that reverses
=====================

A machine with a stack (Joulin & Mikolov 2015) pushes, pops or keeps, each to a degree.
Its controller remembers nothing, so that all it knows of a string is on the stack. It
learns to reverse strings of at most 10 letters, and then reverses strings of 200.
"""

# %%
# A task and a machine
# --------------------
#
# The machine reads a string, then answers with the string from its end to its start.
# The stack has room for 16 elements of 8 numbers.

from functools import partial

import torch

import memnets as mn
from memnets.cells import FeedForward
from memnets.memories import Stack
from memnets.training import Symbols
from tasks.symbols import Reversal

torch.set_num_threads(1)
torch.manual_seed(0)
task = Reversal(batch_size=32, max_length=10, test_sets=[(200, 50)], longest=0)
stack = Stack(slots=16, width=8)
controller = partial(FeedForward, hidden_size=64)
sizes = task.input_size, task.output_size
model = mn.MemoryMachine(*sizes, controller, stack, objective=Symbols())

# %%
# In the second half of the training there is noise on the actions: against it they
# become certain, and only certain actions keep a long stack whole.

optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for step in range(800):
    stack.noise = 2.0 if step > 400 else 0.0
    loss = model.loss(task.batch("train", step))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.eval()

# %%
# A longer string needs a larger stack, and nothing else: no weight depends on its size.

stack.slots = 256
batch = task.batch("length_200", 0)
with torch.no_grad():
    right = model.logits(batch).argmax(-1) == batch.targets
print(f"200 letters: {right.float().mean():.2%} of the letters right")
assert right.float().mean() > 0.97

# %%
# What it does
# ------------
#
# One string of 8 letters: the degrees of the three actions, and what stands on the
# stack after each step. It pushes while it reads and pops while it answers.

import matplotlib.pyplot as plt

plt.style.use("memnets.viewing.style")

string = "01101000"
asked = task.asked([string])
with torch.no_grad(), mn.record(model, kinds=None) as tape:
    answer = model.logits(asked).argmax(-1)
(said,) = task.says(asked, answer)
print(string, "->", said)
assert said == string[::-1]

actions = torch.stack(tape.calls("body.access", "actions"))[:, 0, 0].T
memory = torch.stack(tape.calls("body.access", "memory"))[:, 0, :10]
names = [*string, *(f"→{letter}" for letter in said)]

figure, (upper, lower) = plt.subplots(
    2, 1, figsize=(8, 4.2), sharex=True, layout="constrained", height_ratios=[1, 3]
)
upper.imshow(actions, aspect="auto", cmap="Greys", vmin=0, vmax=1)
upper.set_yticks(range(3), ["push", "pop", "keep"])
upper.set_title("degree of each action (black = 1)")
# The number of an element that tells the letters 0 and 1 apart best.
letters = memory[:8, 0]
zeros = torch.tensor([letter == "0" for letter in string])
best = (letters[zeros].mean(0) - letters[~zeros].mean(0)).abs().argmax()
image = lower.imshow(memory[..., best].T, aspect="auto", cmap="viridis", vmin=0, vmax=1)
lower.set_yticks([0, 4, 9], ["top", "4 below", "9 below"])
lower.set_xticks(range(16), names)
lower.set_title("the stack after each step: one number of each element")
lower.set_xlabel("letter read, then → letter answered")
figure.colorbar(image, ax=lower, label="number")
plt.show()

# %%
# Tell it what to do
# ------------------
#
# An intervention holds the actions: here the machine may not pop from the third letter
# of its answer on. It goes on to answer with what lies on top.

from memnets.viewing.interventions import Freeze

held = Freeze("body.access", "actions", (0.0, 0.0, 1.0), start=10)
other = tape.intervene(held)
print(other.interventions[0].describe())
changed = torch.stack(other.calls("body.access", "memory"))[:, 0]
assert torch.equal(changed[10], changed[15])

# %%
# Watch it
# --------
#
# On the page, *Memory* draws the stack before and after a step, and says what moved.

stack.slots = 16
page = mn.view(model, task, batch=asked, what_if="none", title="A stack that reverses")
page.save("stack.html")

# %%
# For a longer training, with two stacks, tested on 1,000 letters:
#
# .. code-block:: sh
#
#    memnets fit --config symbols/stack
