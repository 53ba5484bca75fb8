"""Training steps of translation against joeynmt 2.3, and of a Transformer against torch.nn's.

The same sizes, batches and optimiser, taking turns in one process with one thread:

JOEYNMT=<a folder with the package joeynmt> python benchmarks/against_joeynmt.py
"""

import importlib.metadata
import sys
import warnings
from functools import partial
from types import SimpleNamespace

import torch
from pairs import compare, find, updating
from torch import nn

from memnets.addressing import Content
from memnets.batches import BEGIN, END, PAD, Batch
from memnets.cells import GRU
from memnets.encoders import Recurrent
from memnets.models import Seq2Seq, Transformer
from memnets.scores import Additive
from memnets.training.objectives import Tokens

ROUNDS = 15
VOCABULARY, WIDTH, HIDDEN, LAYERS, HEADS = 4000, 256, 512, 3, 4
SMOOTHING = 0.1


def random_batch(batch_size: int = 64, source: int = 16, target: int = 15) -> Batch:
    """Sentences of a Multi30k batch's lengths, which differ by one."""
    torch.manual_seed(0)
    sources = torch.randint(END + 1, VOCABULARY, (batch_size, source))
    targets = torch.randint(END + 1, VOCABULARY, (batch_size, target))
    sources[batch_size // 2 :, -1] = PAD  # the longest first, as joeynmt wants them
    targets[batch_size // 2 :, -1] = PAD
    inputs = torch.cat([torch.full((batch_size, 1), BEGIN), targets[:, :-1]], 1)
    return Batch(sources, inputs, targets, sources != PAD, targets != PAD)


def our_recurrent(batch: Batch):
    model = Seq2Seq(
        VOCABULARY,
        VOCABULARY,
        partial(Recurrent, controller=partial(GRU, hidden_size=WIDTH)),
        partial(GRU, hidden_size=WIDTH),
        Content(Additive(WIDTH)),
        width=WIDTH,
        key_size=WIDTH,
        attend="after",
        input_feeding=True,
        dropout=0.3,
        objective=Tokens(SMOOTHING),
    )
    return model, updating(model, lambda: model.loss(batch))


def our_transformer(batch: Batch):
    model = Transformer(
        VOCABULARY,
        VOCABULARY,
        WIDTH,
        HEADS,
        LAYERS,
        HIDDEN,
        dropout=0.1,
        objective=Tokens(SMOOTHING),
    )
    return model, updating(model, lambda: model.loss(batch))


def joeynmt(batch: Batch, kind: str):
    from joeynmt.model import build_model
    from joeynmt.vocabulary import Vocabulary

    special = SimpleNamespace(sep_token=None, sep_id=None, lang_tags=[])
    for number, name in enumerate(("unk", "pad", "bos", "eos")):  # their order
        setattr(special, f"{name}_token", f"<{name}>")
        setattr(special, f"{name}_id", number)
    vocabulary = Vocabulary([str(number) for number in range(VOCABULARY - 4)], special)
    embeddings = {"embedding_dim": WIDTH, "scale": kind == "transformer", "dropout": 0.0}
    if kind == "transformer":
        part = {
            "type": "transformer",
            "num_layers": LAYERS,
            "num_heads": HEADS,
            "embeddings": embeddings,
            "hidden_size": WIDTH,
            "ff_size": HIDDEN,
            "dropout": 0.1,
            "layer_norm": "pre",
        }
        encoder, decoder = dict(part), dict(part)
    else:
        part = {
            "type": "recurrent",
            "rnn_type": "gru",
            "embeddings": {**embeddings, "dropout": 0.3},
            "hidden_size": WIDTH,
            "num_layers": 1,
            "dropout": 0.3,
        }
        encoder = {**part, "bidirectional": True}
        decoder = {
            **part,
            "attention": "bahdanau",
            "input_feeding": True,
            "init_hidden": "bridge",
            "hidden_dropout": 0.3,
        }
    settings = {
        "encoder": encoder,
        "decoder": decoder,
        "tied_embeddings": True,
        "tied_softmax": True,
    }
    model = build_model(settings, vocabulary, vocabulary)
    model.loss_function = ("crossentropy", SMOOTHING)
    model.train()
    source, inputs, targets = (
        tokens.masked_fill(tokens == PAD, special.pad_id)
        for tokens in (batch.source, batch.inputs, batch.targets)
    )
    source_mask, target_mask = batch.source_mask.unsqueeze(1), batch.target_mask.unsqueeze(1)

    def loss():
        total, *_ = model(
            return_type="loss",
            src=source,
            src_length=batch.source_mask.sum(1),
            src_mask=source_mask,
            trg_input=inputs,
            trg=targets,
            trg_mask=target_mask,
            trg_length=batch.target_mask.sum(1),
        )
        return total / len(batch.source)

    return model, updating(model, loss)


class TorchTransformer(nn.Module):
    """The same sizes by ``torch.nn.Transformer``, its embeddings and output ours."""

    def __init__(self) -> None:
        super().__init__()
        self.outer = Transformer(VOCABULARY, VOCABULARY, WIDTH, HEADS, 1, HIDDEN, dropout=0.1)
        del self.outer.encoder, self.outer.decoder
        self.inner = nn.Transformer(
            WIDTH,
            HEADS,
            LAYERS,
            LAYERS,
            HIDDEN,
            dropout=0.1,
            batch_first=True,
            norm_first=True,
        )

    def loss(self, batch: Batch):
        outer, objective = self.outer, Tokens(SMOOTHING)
        source, inputs = (
            outer.embed(outer.target_embedding, tokens, torch.arange(tokens.shape[1]).unsqueeze(0))
            for tokens in (batch.source, batch.inputs)
        )
        causal = torch.ones(inputs.shape[1], inputs.shape[1], dtype=torch.bool).triu(1)
        hidden = self.inner(
            source,
            inputs,
            tgt_mask=causal,
            src_key_padding_mask=~batch.source_mask,
            memory_key_padding_mask=~batch.source_mask,
            tgt_is_causal=True,
        )
        losses = objective.losses(outer.answer(hidden), batch.targets)
        return losses.masked_fill(~batch.target_mask, 0).sum() / batch.target_mask.sum()


def torch_transformer(batch: Batch):
    model = TorchTransformer()
    return model, updating(model, lambda: model.loss(batch))


def compare_models(name: str, ours, theirs) -> None:
    """Models and their steps of training; their sizes are told too."""
    (model, step), (other, other_step) = ours, theirs
    sizes = [sum(each.numel() for each in part.parameters()) / 1e6 for part in (model, other)]
    told = f"{name} ({sizes[0]:.2f}M and {sizes[1]:.2f}M parameters)"
    compare(told, step, other_step, ROUNDS)


def main() -> None:
    warnings.simplefilter("ignore")
    batch = random_batch()
    compare_models("Transformer, torch.nn", our_transformer(batch), torch_transformer(batch))
    find("JOEYNMT", "a folder with the package joeynmt 2.3")
    sys.modules.setdefault("importlib_metadata", importlib.metadata)
    compare_models("attention GRU, joeynmt", our_recurrent(batch), joeynmt(batch, "recurrent"))
    compare_models("Transformer, joeynmt", our_transformer(batch), joeynmt(batch, "transformer"))


if __name__ == "__main__":
    main()
