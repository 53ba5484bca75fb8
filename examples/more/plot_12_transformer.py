"""
A Transformer's heads, sorting
==============================

In a Transformer (Vaswani et al. 2017) the memory is what was read and said so far.
Every step adds a slot, and many heads address all slots by content. Here a small one
learns to sort.
"""

import torch
from torch import nn

from memnets.models import Transformer
from memnets.training import Tokens
from tasks import SortingTokens

torch.set_num_threads(1)
task = SortingTokens(
    symbols=10, min_length=1, max_length=8, batch_size=32, test_sequences=200
)

torch.manual_seed(0)
model = Transformer(
    task.input_size,
    task.output_size,
    width=32,
    heads=4,
    layers=2,
    hidden_size=64,
    dropout=0.0,
    objective=Tokens(),
)
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
steps = 300
warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, 1.0, 30)
cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
losses = []
for step in range(steps):
    loss = model.loss(task.batch("train", step))
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    (warmup if step < 30 else cosine).step()
    losses.append(loss.item())
model.eval()

# %%
# Greedy and beam search
# ----------------------
#
# Any model that answers in tokens can be searched. A beam follows several answers at
# once and keeps the likeliest.

from tasks.tokens import said

batch = task.batch("test", 0)
for beam in (1, 4):
    answers = model.generate(batch.source, batch.source_mask, beam=beam)
    right = [said(one) == said(other) for one, other in zip(answers, batch.targets)]
    exact = sum(right) / len(right)
    print(f"beam of {beam}: {exact:.1%} exact")
    assert exact > 0.9

# %%
# Many steps at once, or one by one
# ---------------------------------
#
# A training knows the whole answer, and takes all steps at once. An answer comes one
# step at a time, and the state keeps the keys and values of the steps before. Both give
# the same numbers; the laws hold every model to that.

with torch.no_grad():
    state = model.encode(batch.source, batch.source_mask)
    at_once, _ = model.decode(batch.inputs, state)
    one_by_one = []
    for token in batch.inputs.split(1, dim=1):
        logits, state = model.decode(token, state)
        one_by_one.append(logits)
torch.testing.assert_close(torch.cat(one_by_one, 1), at_once, rtol=1e-3, atol=1e-3)

# %%
# Where the heads look
# --------------------
#
# Each row of panels is a layer of the decoder, each panel one of its heads: down the
# side the symbols of the answer, along the top those of the source.

from memnets import record

seven = SortingTokens(symbols=10, min_length=7, max_length=7)
batch = seven.batch("val", 3)
with torch.no_grad(), record(model) as tape:
    logits = model.logits(batch)
source, answer = seven.labels(batch, 0)
tape.plot_alignment("heads.png", model.alignments(), [*source], [*answer], heads=True)

# %%
# To say the next symbol, some head must find it: one that gives most of its weight to
# the places where the next symbol stands in the source.

found = 0.0
for name in model.alignments().values():
    for head in tape.over_time(name)[:, -len(answer) :]:
        hits = [
            sum(
                weight
                for word, weight in zip(source, row.tolist())
                if word == said_word
            )
            for row, said_word in zip(head, answer[:-1])
        ]
        found = max(found, sum(hits) / len(hits))
print(f"the best head gives {found:.0%} of its weight to the symbol that comes next")
assert found > 0.4

# %%
# The larger one
# --------------
#
# .. code-block:: sh
#
#    memnets fit --config sorting/transformer
#    memnets fit --config translation/transformer
#
# :class:`memnets.models.CausalTransformer` is one stack for source and answer. It is
# the same model as a memory machine over another *body*: see :doc:`/concepts`.
