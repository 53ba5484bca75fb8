"""
A pointer that draws a hull
===========================

A pointer network answers with places of its source: its weights over the slots are
the distribution of the answer (Vinyals et al. 2015). So there may be any number of
them. Here it learns convex hulls: points in the plane are given, and the corners of
the polygon around them are to be said, counter-clockwise.
"""

from functools import partial

import torch
from torch import nn

import memnets as mn
from memnets.addressing import Content
from memnets.cells import LSTM
from memnets.encoders import SelfAttention
from memnets.features import FourierFeatures
from memnets.models import PointerNetwork
from memnets.scores import ScaledDot
from memnets.training import Tokens
from tasks import ConvexHull

task = ConvexHull(min_points=5, max_points=8, batch_points=512, test_sequences=300)

# %%
# The encoder is self-attention without positions: it sees a set, not a sequence.
# Fourier features let points that lie close together look different.

torch.set_num_threads(1)
torch.manual_seed(0)
model = PointerNetwork(
    task.input_size,
    encoder=partial(SelfAttention, layers=2, heads=4, hidden_size=64),
    decoder=partial(LSTM, hidden_size=64),
    attention=Content(ScaledDot()),
    width=64,
    features=FourierFeatures,
    objective=Tokens(),
)
steps = 400
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.1)
for step in range(steps):
    loss = model.loss(task.batch("train", step))
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
model.eval()

# %%
# The task knows geometry, so it can judge an answer that is not the right one: how much
# of the area it covers, and whether it is a polygon at all.

batch = task.batch("test", 0)
answers = model.generate(batch.source, batch.source_mask)
scores = task.measure("test", [answers])
print({name: round(score, 3) for name, score in scores.items()})
assert scores["exact"] > 0.4
assert scores["area"] > 0.9

# %%
# Hulls
# -----
#
# The model's answer in blue, the right one in green below it.

import matplotlib.pyplot as plt

plt.style.use("memnets.viewing.style")

figure, panels = plt.subplots(1, 5, figsize=(10, 2.4), layout="constrained")
for row, panel in enumerate(panels):
    points, right, _ = task.drawing(batch, row, batch.targets[row])
    _, lines, caption = task.drawing(batch, row, answers[row])
    for line in right:
        panel.plot(*line.T, color="tab:green", linewidth=6, alpha=0.3)
    for line in lines:
        panel.plot(*line.T, color="tab:blue", linewidth=1.5)
    panel.plot(*points.T, ".", color="black")
    panel.set_title(caption.split(",")[0], fontsize=9)
    panel.set(xticks=[], yticks=[], aspect="equal")
plt.show()

# %%
# Pointing, step by step
# ----------------------
#
# The area of a dot is its weight. The answer begins at the corner that was given first,
# and the encoder does not see which that was: at the first step each corner may be it.
# From then on the polygon is known. What was pointed at is closed; when the polygon is
# whole, the weight goes to the end mark.

from memnets.batches import END

right = [
    task.drawing(batch, row, tokens)[2] == "right" for row, tokens in enumerate(answers)
]
corners = (batch.targets > END).sum(1)
points = batch.source_mask.sum(1)
row = next(
    row for row in range(300) if right[row] and corners[row] == 4 and points[row] > 6
)
source = batch.source[row : row + 1][:, batch.source_mask[row]]
with torch.no_grad():
    logits, _ = model.decode(batch.inputs[row : row + 1], model.encode(source))
weights = logits[0].softmax(-1)
steps = int(corners[row]) + 1

figure, panels = plt.subplots(2, 3, figsize=(6.6, 4.8), layout="constrained")
for panel in panels.flat[steps:]:
    panel.set_axis_off()
for step, panel in enumerate(panels.flat[:steps]):
    panel.scatter(*source[0].T, s=12, color="black")
    panel.scatter(
        *source[0].T, s=400 * weights[step, END + 1 :], color="tab:orange", alpha=0.7
    )
    panel.set_title(f"step {step + 1}: end {weights[step, END]:.0%}", fontsize=9)
    panel.set(
        xticks=[], yticks=[], aspect="equal", xlim=(-0.15, 1.15), ylim=(-0.15, 1.15)
    )
plt.show()

# %%
# Watch it
# --------
#
# *Look at* the drawing: at each step the polygon gets its next side. *Look at* the
# circles: the area of a circle is the weight of a point, so you see between which
# points the model wavers. The first examples are answers that went wrong.

page = mn.view(
    model, task, examples=4, what_if="none", title="A pointer draws convex hulls"
)
page.save("hull.html")

# sphinx_gallery_thumbnail_number = 2

# %%
# The larger ones
# ---------------
#
# .. code-block:: sh
#
#    memnets fit --config convex_hull/attention_pointer
#    memnets fit --config delaunay/pointer
#    memnets fit --config tsp/pointer
#
# train on up to 50 points, on triangulations, and on shortest tours: see
# :doc:`/results/pointing`.
