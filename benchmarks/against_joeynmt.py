"""Translation against joeynmt 2.3: training steps, and decoding, greedy and with a beam of 5.

An attention GRU and a Transformer of the same sizes, batches and optimizer; forward, backward,
clipping and Adam. To decode, both take the same number of steps for every sentence: no end mark is
let through before the last. A Transformer of torch.nn is beside joeynmt's, for its training step.

JOEYNMT=<a folder with the package joeynmt 2.3.0 and what it imports> \\
    python benchmarks/against_joeynmt.py
"""

import importlib.metadata
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

import torch
from pairs import Case, Peer, Product, Step, floor_of, run, updating
from torch import Tensor, nn

from memnets.addressing import Content
from memnets.batches import BEGIN, END, PAD, Batch
from memnets.cells import GRU
from memnets.encoders import Recurrent
from memnets.models import Model, Seq2Seq, Transformer
from memnets.scores import Additive
from memnets.training.objectives import Tokens

PEER = Peer("joeynmt", "2.3.0", package="joeynmt")
#: Pairs of training steps, and of batches decoded.
ROUNDS, DECODING_ROUNDS = 15, 9
VOCABULARY, WIDTH, HIDDEN, LAYERS, HEADS = 4000, 256, 512, 3, 4
#: Sentences of a batch, and their lengths, which are those of Multi30k.
SENTENCES, SOURCE, TARGET = 64, 16, 15
SMOOTHING = 0.1
NAMES = {"recurrent": "attention GRU", "transformer": "Transformer"}
TRAINING_GOALS = {"recurrent": 1.5, "transformer": 1.3}
#: Width of the beam, 1 = greedy -> goal.
DECODING_GOALS = {1: 6.0, 5: 5.0}
#: Tokens of joeynmt: unknown, padding, begin, end.
THEIR_PAD, THEIR_END = 1, 3


def random_batch() -> Batch:
    """Sentences of two lengths, which differ by one."""
    torch.manual_seed(0)
    sources = torch.randint(END + 1, VOCABULARY, (SENTENCES, SOURCE))
    targets = torch.randint(END + 1, VOCABULARY, (SENTENCES, TARGET))
    sources[SENTENCES // 2 :, -1] = PAD  # the longest first, as joeynmt wants them
    targets[SENTENCES // 2 :, -1] = PAD
    inputs = torch.cat([torch.full((SENTENCES, 1), BEGIN), targets[:, :-1]], 1)
    return Batch(sources, inputs, targets, sources != PAD, targets != PAD)


def our_model(kind: str) -> Model:
    objective = Tokens(SMOOTHING)
    if kind == "transformer":
        return Transformer(
            VOCABULARY, VOCABULARY, WIDTH, HEADS, LAYERS, HIDDEN, dropout=0.1, objective=objective
        )
    return Seq2Seq(
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
        objective=objective,
    )


def our_answers(model: Model, batch: Batch, beam: int) -> Step:
    model.eval()
    biases = [part for name, part in model.named_parameters() if part.shape == (VOCABULARY,)]
    with torch.no_grad():
        biases[-1][END] = -1e4

    def step() -> None:
        answers = model.generate(batch.source, batch.source_mask, beam=beam, max_length=TARGET)
        assert answers.shape == (SENTENCES, TARGET)

    return step


def their_model(kind: str) -> nn.Module:
    """With the same sizes as ours."""
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
    return model


def their_loss(model: nn.Module, batch: Batch) -> Tensor:
    source, inputs, targets = (
        tokens.masked_fill(tokens == PAD, THEIR_PAD)
        for tokens in (batch.source, batch.inputs, batch.targets)
    )
    total, *_ = model(
        return_type="loss",
        src=source,
        src_length=batch.source_mask.sum(1),
        src_mask=batch.source_mask.unsqueeze(1),
        trg_input=inputs,
        trg=targets,
        trg_mask=batch.target_mask.unsqueeze(1),
        trg_length=batch.target_mask.sum(1),
    )
    return total / len(batch.source)


def their_answers(model: nn.Module, batch: Batch, beam: int) -> Step:
    from joeynmt.search import beam_search, greedy

    model.eval()
    mask = batch.source_mask.unsqueeze(1)

    def step() -> None:
        with torch.no_grad():
            output, hidden, *_ = model(
                return_type="encode",
                src=batch.source.masked_fill(batch.source == PAD, THEIR_PAD),
                src_length=batch.source_mask.sum(1),
                src_mask=mask,
            )
            given = {"encoder_output": output, "encoder_hidden": hidden, "src_mask": mask}
            if beam == 1:
                answers, *_ = greedy(mask, TARGET, model, output, hidden, min_output_length=TARGET)
            else:
                answers, *_ = beam_search(
                    model,
                    beam,
                    **given,
                    max_output_length=TARGET,
                    alpha=1.0,
                    min_output_length=TARGET,
                )
        assert answers.shape == (SENTENCES, TARGET)

    return step


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
        start = torch.zeros(len(batch.source), dtype=torch.long)
        source = outer.inputs(batch.source, start, source=True)
        inputs = outer.inputs(batch.inputs, start)
        causal = torch.ones(inputs.shape[1], inputs.shape[1], dtype=torch.bool).triu(1)
        hidden = self.inner(
            source,
            inputs,
            tgt_mask=causal,
            src_key_padding_mask=~batch.source_mask,
            memory_key_padding_mask=~batch.source_mask,
            tgt_is_causal=True,
        )
        losses = objective.losses(outer.output(hidden), batch.targets)
        return losses.masked_fill(~batch.target_mask, 0).sum() / batch.target_mask.sum()


def layers(rows: int, width: int, length: int, batch: int, times: int = 1) -> list[Product]:
    """Self-attention and feed-forward networks of all layers of a Transformer."""
    part, heads = WIDTH // HEADS, batch * HEADS
    return LAYERS * [
        Product(rows, WIDTH, 3 * WIDTH, times=times),
        Product(width, part, length, heads, times),
        Product(width, length, part, heads, times),
        Product(rows, WIDTH, WIDTH, times=times),
        Product(rows, WIDTH, HIDDEN, times=times),
        Product(rows, HIDDEN, WIDTH, times=times),
    ]


def of_source(kind: str) -> list[Product]:
    """Those of the encoder, and of keys and values of the source."""
    rows = SENTENCES * SOURCE
    if kind == "transformer":
        keys = LAYERS * [Product(rows, WIDTH, 2 * WIDTH)]
        return layers(rows, SOURCE, SOURCE, SENTENCES) + keys
    return [
        *[Product(rows, WIDTH, 3 * WIDTH)] * 2,
        *[Product(SENTENCES, WIDTH, 3 * WIDTH, times=SOURCE)] * 2,
        Product(rows, 2 * WIDTH, WIDTH),
    ]


def of_steps(kind: str, rows: int, known: bool) -> list[Product]:
    """Those of the decoder for some rows; ``known`` = the inputs of all steps are known before."""
    if kind == "transformer":
        # All steps at once, or one after the other, each of which sees half of them on average.
        size, times = (TARGET, 1) if known else (1, TARGET)
        part, own = WIDTH // HEADS, layers(rows * size, size, max(size, TARGET // 2), rows, times)
        source = LAYERS * [
            *[Product(rows * size, WIDTH, WIDTH, times=times)] * 2,
            Product(size, part, SOURCE, rows * HEADS, times),
            Product(size, SOURCE, part, rows * HEADS, times),
        ]
        return [*own, *source, Product(rows * size, WIDTH, VOCABULARY, times=times)]
    at_once = {True: (rows * TARGET, 1), False: (rows, TARGET)}[known]
    return [
        Product(at_once[0], WIDTH, 3 * WIDTH, times=at_once[1]),
        *[Product(rows, WIDTH, 3 * WIDTH, times=TARGET)] * 2,  # what is fed back, and the state
        Product(rows, WIDTH, WIDTH, times=TARGET),  # queries
        Product(rows * SOURCE, WIDTH, 1, times=TARGET),  # scores
        Product(1, SOURCE, 2 * WIDTH, rows, TARGET),  # read
        Product(rows, 3 * WIDTH, WIDTH, times=TARGET),
        Product(at_once[0], WIDTH, VOCABULARY, times=at_once[1]),
    ]


def floor_of_training(kind: str) -> Step:
    return floor_of(of_source(kind) + of_steps(kind, SENTENCES, known=True))


def floor_of_decoding(kind: str, beam: int) -> Step:
    products = of_source(kind) + of_steps(kind, SENTENCES * beam, known=False)
    return floor_of(products, backward=False)


def sizes(*models: nn.Module) -> str:
    told = (f"{sum(each.numel() for each in model.parameters()) / 1e6:.2f}M" for model in models)
    return f"{' and '.join(told)} parameters"


def cases() -> Iterator[Case]:
    warnings.simplefilter("ignore")
    sys.modules.setdefault("importlib_metadata", importlib.metadata)  # the package of this name
    batch = random_batch()
    for kind, name in NAMES.items():
        ours, theirs = our_model(kind), their_model(kind)
        theirs.train()
        yield Case(
            f"training step of {a(name)} ({sizes(ours, theirs)})",
            updating(ours, partial(ours.loss, batch)),
            updating(theirs, partial(their_loss, theirs, batch)),
            ROUNDS,
            TRAINING_GOALS[kind],
            floor_of_training(kind),
        )
    ours, torch_one = our_model("transformer"), TorchTransformer()
    yield Case(
        f"training step of a Transformer, torch.nn's ({sizes(ours, torch_one)})",
        updating(ours, partial(ours.loss, batch)),
        updating(torch_one, partial(torch_one.loss, batch)),
        ROUNDS,
        None,
        floor_of_training("transformer"),
    )
    for kind, name in NAMES.items():
        ours, theirs = our_model(kind), their_model(kind)
        for beam, goal in DECODING_GOALS.items():
            how = "greedy" if beam == 1 else f"beam {beam}"
            both = our_answers(ours, batch, beam), their_answers(theirs, batch, beam)
            floor = floor_of_decoding(kind, beam)
            yield Case(f"decoding of {a(name)}, {how}", *both, DECODING_ROUNDS, goal, floor)


def a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


if __name__ == "__main__":
    run(__doc__, PEER, cases)
