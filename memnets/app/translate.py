"""``memnets translate``: lines of text in, lines of translations out."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from memnets.app.commands import COMMANDS, TRUST
from memnets.app.help import PlainHelp
from memnets.files import target_of, write_atomically

if TYPE_CHECKING:
    import torch

    from memnets.app.translator import Translator

__all__ = ["parser", "translate"]

DESCRIPTION = f"""{COMMANDS["translate"]}

Text is UTF-8. Each line of input has one line of output, in the same order. An empty line, and a
line too long for the model, has an empty translation. Messages on stderr count unknown tokens,
empty lines, lines too long for the model (with their numbers), and answers cut at their greatest
length. With --n_best, a line of input has up to that many lines of output: its number, from 1; the
score, log probability over length penalty; and the translation, separated by tabs.

With --stream, each line is answered as soon as it is read, for use by another program.

Exit status: 0 if every line has its translation, empty or not; 1 after an error. After an error
nothing is written; with --stream, nothing more.
"""


def parser() -> ArgumentParser:
    """The parser of the command."""
    made = ArgumentParser(
        prog="memnets translate",
        usage="memnets translate --checkpoint RUN [options] < input.txt",
        description=DESCRIPTION,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=PlainHelp,
    )
    made.add_argument(
        "--checkpoint",
        type=str,
        required=True,
        help="A checkpoint of memnets fit, or the folder of a run.",
    )
    made.add_argument("--input", type=str | None, help="A file to read; standard input by default.")
    made.add_argument(
        "--output", type=str | None, help="A file to write; standard output by default."
    )
    made.add_argument("--beam", type=int, default=5, help="Width of the beam; 1 is greedy.")
    made.add_argument("--length_penalty", type=float, default=1.0, help="0 favours short answers.")
    made.add_argument(
        "--n_best", type=int, default=1, help="Number of translations of each line, at most beam."
    )
    made.add_argument(
        "--max_length",
        type=int | None,
        help="Most tokens of an answer; by default 10 more than twice those of the sentence.",
    )
    made.add_argument(
        "--batch_tokens",
        type=int | None,
        help="Most tokens of a batch, times the beam; 8192 by default.",
    )
    made.add_argument(
        "--threads", type=int, default=1, help="Number of PyTorch's threads on the CPU."
    )
    made.add_argument("--trust", action="store_true", help=TRUST)
    made.add_argument(
        "--device", type=str, default="cpu", help="Device of the model: cpu, cuda, cuda:1, mps."
    )
    made.add_argument(
        "--stream", action="store_true", help="Answer each line as soon as it is read."
    )
    return made


def _device(name: str) -> torch.device:
    """A device of PyTorch by its name.

    Raises:
        ValueError: this machine has no such device.
    """
    import torch

    there = ["cpu"]
    if torch.cuda.is_available():
        there += ["cuda", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if name not in there:
        raise ValueError(f"device must be one that is there, {', '.join(there)}; got {name}")
    return torch.device(name)


def translate(arguments: list[str]) -> None:
    """Translate lines of text: see ``memnets translate --help``.

    Raises:
        ValueError: an argument is out of its range, or the text is not UTF-8.
        CheckpointError: the checkpoint cannot be used.
    """
    asked = parser().parse_args(arguments)  # first: what follows takes long to import
    import torch

    from memnets.app.translator import BATCH_TOKENS, Translator

    if asked.batch_tokens is None:
        asked.batch_tokens = BATCH_TOKENS
    _check(asked)
    torch.set_num_threads(asked.threads)
    translator = Translator.load(asked.checkpoint, trust=asked.trust)
    translator.model.to(_device(asked.device))
    _translate_all(translator, asked)


def _check(asked: Any) -> None:
    """Check the arguments, before a checkpoint is read.

    Raises:
        ValueError: an argument is out of its range, or two of them exclude each other.
    """
    from memnets.checks import check_positive, check_threads
    from memnets.decoding import check_search

    check_positive(n_best=asked.n_best, batch_tokens=asked.batch_tokens)
    check_threads(asked.threads)
    check_search(asked.beam, asked.length_penalty, max_length=asked.max_length)
    _device(asked.device)
    if asked.n_best > asked.beam:
        raise ValueError(f"n_best must be at most beam = {asked.beam}; got {asked.n_best}")
    if asked.stream and asked.output is not None:
        raise ValueError("a stream goes to standard output; leave --output out, or --stream")
    if asked.input is not None and not Path(asked.input).exists():
        raise ValueError(f"expected a file at {asked.input}; there is none")
    if asked.output is not None:
        target_of(asked.output)


def _translate_all(translator: Translator, asked: Any) -> None:
    """Translate all input, and print the counts of problems."""
    from tasks.text import lines_of

    counts: Counter[str] = Counter()
    too_long: list[int] = []
    source = asked.input or "standard input"
    with ExitStack() as stack:
        file = sys.stdin.buffer
        if asked.input is not None:
            file = stack.enter_context(Path(asked.input).open("rb"))
        # The whole input at once, or each line when it comes.
        parts = enumerate(file) if asked.stream else [(0, file.read())]
        for before, content in parts:
            sentences = lines_of(content, source, before + 1)
            text = _translated(translator, sentences, asked, before + 1).encode()
            counts.update(translator.counts._asdict())
            too_long += [before + row + 1 for row in translator.too_long]
            if asked.output is None:
                sys.stdout.buffer.write(text)
                sys.stdout.flush()
            else:
                write_atomically(Path(asked.output), partial(_write, text))
    for name, count in counts.items():
        if count:
            note = f" (line {_few(too_long)})" if name == "long_sentences" else ""
            print(f"memnets: {name.replace('_', ' ')}: {count}{note}", file=sys.stderr)


def _translated(translator: Translator, sentences: list[str], asked: Any, first: int) -> str:
    """Lines of translations; ``first`` is the number of the first sentence."""
    from rich.console import Console
    from rich.progress import Progress

    from memnets.app.predict import plain

    settings = {
        name: asked[name] for name in ("beam", "length_penalty", "max_length", "batch_tokens")
    }
    with ExitStack() as stack:
        if sys.stderr.isatty() and not asked.stream:
            bar = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
            sentences_done = bar.add_task("Translating", total=len(sentences))
            settings["progress"] = partial(bar.advance, sentences_done)
        if asked.n_best == 1:
            lines = [plain(text) for text in translator(sentences, **settings)]
        else:
            lines = [
                f"{number}\t{answer.score:.4f}\t{plain(answer.text)}"
                for number, answers in enumerate(
                    translator.alternatives(sentences, asked.n_best, **settings), start=first
                )
                for answer in answers
            ]
    return "".join(line + "\n" for line in lines)


def _write(text: bytes, file: IO[bytes]) -> None:
    file.write(text)


def _few(numbers: list[int], most: int = 10) -> str:
    """The first few numbers, for a message."""
    return ", ".join(map(str, numbers[:most])) + (", ..." if len(numbers) > most else "")
