"""Mutation testing: plants small faults in the code, one at a time, and counts those found.

    python tests/mutants.py --count 200 --seed 1 --record mutants.json

draws 200 mutants of memnets/ and tasks/ with a seed. For each it runs the tests of the mutated
file, first with few examples, then with as many as usual, and stops at the first failure. A copy
of the tree is mutated, never the tree itself. The record is written after each mutant: the same
command goes on where it was stopped. With ``--again survived`` it tries the survivors once more,
against tests that were written since.

A survivor is either a missing test, or a mutant that computes the same as the code (an
*equivalent* one). Mark the latter with ``--equivalent ID --because "..."``; the score leaves them
out.

Importing torch and Lightning takes longer than most tests. This process imports them once and
forks for each mutant; the forks alone import memnets, tasks and the tests.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("memnets", "tasks")

#: The tests of each file, the quickest first. A file that is not named has those of its folder.
TESTS = {
    "memnets/": "test_cli.py",
    "memnets/_moved.py": "test_moved.py",
    "memnets/_own.py": "test_cli.py laws/test_kit.py",
    "memnets/addressing.py": (
        "test_addressing.py test_memories.py laws/test_parts.py laws/test_models.py test_trace.py"
    ),
    "memnets/app/": "test_cli.py test_checkpoints.py test_resume.py",
    "memnets/app/checkpoints.py": "test_checkpoints.py test_trust.py test_translate.py test_cli.py",
    "memnets/app/cli.py": "test_cli.py test_translate.py",
    "memnets/app/checks.py": "test_cli.py test_compile.py",
    "memnets/app/commands.py": "test_cli.py test_packaging.py",
    "memnets/app/configs.py": "test_packaging.py test_configs.py",
    "memnets/app/decisive.py": "test_grid.py test_resume.py test_cli.py",
    "memnets/app/doctor.py": "test_native.py",
    "memnets/app/entries.py": "test_grid.py test_scoreboard.py",
    "memnets/app/executors.py": "test_executors.py",
    "memnets/app/grid.py": "test_grid.py",
    "memnets/app/held.py": "test_executors.py",
    "memnets/app/listing.py": "test_listing.py",
    "memnets/app/markdown.py": "test_scoreboard.py test_sweep.py",
    "memnets/app/messages.py": "test_cli.py test_configs.py",
    "memnets/app/options.py": "test_scoreboard.py test_sweep.py",
    "memnets/app/scoreboard.py": "test_scoreboard.py test_grid.py test_executors.py",
    "memnets/app/seeds.py": "test_scoreboard.py test_grid.py test_sweep.py",
    "memnets/app/settings.py": "test_cli.py test_configs.py test_swaps.py test_trust.py",
    "memnets/app/space.py": "test_sweep.py",
    "memnets/app/study.py": "test_sweep.py",
    "memnets/app/sweep.py": "test_sweep.py",
    "memnets/app/sweep_report.py": "test_sweep.py",
    "memnets/viewing/plots/sweep.py": "test_plots.py test_sweep.py",
    "memnets/app/predict.py": "test_cli.py test_translate.py",
    "memnets/app/predictor.py": "test_translate.py test_sentences.py",
    "memnets/app/swaps.py": "test_swaps.py",
    "memnets/app/translate.py": "test_translate.py",
    "memnets/app/translator.py": "test_translate.py",
    "memnets/app/trust.py": "test_trust.py test_translate.py",
    "memnets/app/vectors.py": "test_sentences.py",
    "memnets/batches.py": (
        "test_objectives.py tasks/test_copying.py tasks/test_tokens.py test_decoding.py "
        "test_machine.py laws/test_models.py test_padding.py"
    ),
    "memnets/cells/": (
        "test_memories.py test_machine.py laws/test_parts.py laws/test_models.py test_truncation.py"
    ),
    "memnets/cells/attention.py": (
        "test_layers.py test_convolutions.py test_pointer.py laws/test_models.py laws/test_parts.py"
    ),
    "memnets/cells/convolutions.py": "test_convolutions.py test_convs2s.py laws/test_models.py",
    "memnets/cells/mixer.py": "test_linear.py laws/test_parts.py",
    "memnets/cells/embeddings.py": "test_layers.py test_pointer.py laws/test_models.py",
    "memnets/cells/positions.py": "test_positions.py test_layers.py laws/test_parts.py",
    "memnets/checks.py": (
        "test_addressing.py test_layers.py test_machine.py test_returned.py test_shapes.py "
        "test_compile.py test_cli.py laws/test_models.py"
    ),
    "memnets/core.py": (
        "test_addressing.py test_layers.py test_machine.py test_returned.py test_shapes.py "
        "test_objectives.py "
        "tasks/test_copying.py laws/test_strategies.py test_pointer.py laws/test_parts.py "
        "laws/test_models.py test_cli.py laws/test_planted_faults.py test_padding.py"
    ),
    "memnets/decoding.py": "test_decoding.py test_pointer.py laws/test_models.py test_translate.py",
    "memnets/embedders.py": "test_embedders.py laws/test_surroundings.py",
    "memnets/encoders.py": "test_convs2s.py test_addressing.py test_pointer.py laws/test_models.py",
    "memnets/events.py": "test_trace.py test_interventions.py",
    "memnets/extras.py": "test_packaging.py tasks/test_geometry.py",
    "memnets/fast.py": "laws/test_twins.py test_kernels.py test_trace.py laws/test_surroundings.py",
    "memnets/factories.py": "test_machine.py test_returned.py test_convs2s.py",
    "memnets/features.py": "test_features.py test_episodes.py laws/test_models.py",
    "memnets/files.py": "test_files.py test_cli.py tasks/test_fewshot.py tasks/test_translation.py",
    "memnets/functional.py": (
        "laws/test_functional.py test_convolutions.py test_memories.py laws/test_parts.py"
    ),
    "memnets/kernels/": (
        "test_kernels.py laws/test_functional.py test_memories.py test_machine.py "
        "laws/test_parts.py laws/test_twins.py"
    ),
    "memnets/kernels/known.py": "laws/test_changed_parts.py laws/test_twins.py",
    "memnets/kernels/hard.py": "test_hard.py laws/test_twins.py",
    "memnets/kernels/sparse.py": "test_sparse.py laws/test_twins.py",
    "memnets/kernels/native/": "test_native.py laws/test_twins.py test_kernels.py",
    "memnets/memories/": (
        "test_memories.py test_machine.py laws/test_parts.py test_trace.py test_callbacks.py "
        "test_cli.py"
    ),
    "memnets/memories/sam.py": "test_sparse.py laws/test_parts.py",
    "memnets/memories/gates.py": "test_linear.py laws/test_parts.py",
    "memnets/memories/linear.py": "test_linear.py laws/test_parts.py laws/test_planted_faults.py",
    "memnets/memories/scan.py": "test_linear.py laws/test_parts.py",
    "memnets/memories/ttt.py": "test_linear.py laws/test_parts.py",
    "memnets/memories/moving.py": "test_stack.py laws/test_parts.py",
    "memnets/memories/stack.py": "test_stack.py laws/test_parts.py",
    "memnets/memories/strengths.py": "test_stack.py laws/test_parts.py",
    "memnets/viewing/interventions.py": "test_interventions.py laws/test_parts.py",
    "memnets/models/": "laws/test_models.py test_base.py test_cli.py",
    "memnets/models/convs2s.py": "test_convs2s.py laws/test_models.py",
    "memnets/models/episodes.py": (
        "test_episodes.py tasks/test_fewshot.py tasks/test_bandits.py laws/test_models.py"
    ),
    "memnets/models/machine.py": (
        "test_machine.py test_memories.py laws/test_parts.py test_decoding.py test_trace.py "
        "laws/test_models.py test_cli.py"
    ),
    "memnets/models/pointer.py": "test_pointer.py laws/test_models.py test_trace.py",
    "memnets/models/reinforce.py": "test_addressing.py test_base.py laws/test_models.py",
    "memnets/models/seq2seq.py": (
        "test_seq2seq.py test_addressing.py test_decoding.py test_trace.py laws/test_models.py "
        "test_translate.py"
    ),
    "memnets/models/sequence.py": (
        "test_machine.py test_decoding.py test_episodes.py test_truncation.py laws/test_models.py"
    ),
    "memnets/models/snail.py": (
        "test_episodes.py test_decoding.py laws/test_models.py test_trace.py"
    ),
    "memnets/models/transformer.py": (
        "test_decoding.py test_layers.py laws/test_models.py test_trace.py test_translate.py"
    ),
    "memnets/normalizers.py": (
        "test_addressing.py laws/test_functional.py laws/test_parts.py laws/test_models.py"
    ),
    "memnets/precision.py": "test_precision.py",
    "memnets/scores.py": (
        "test_kernels.py test_addressing.py laws/test_parts.py laws/test_models.py"
    ),
    "memnets/testing/": (
        "laws/test_strategies.py laws/test_kit.py test_base.py test_objectives.py "
        "laws/test_planted_faults.py laws/test_parts.py laws/test_surroundings.py"
    ),
    "memnets/training/": "test_base.py test_callbacks.py test_cli.py",
    "memnets/training/model.py": (
        "test_base.py test_objectives.py test_episodes.py test_trace.py laws/test_models.py "
        "test_cli.py test_translate.py"
    ),
    "memnets/training/trained.py": (
        "test_base.py test_graphs.py test_resume.py test_trace.py laws/test_models.py "
        "test_cli.py test_translate.py"
    ),
    "memnets/training/objectives.py": (
        "test_objectives.py test_episodes.py tasks/test_bandits.py laws/test_models.py "
        "test_trace.py test_pointer.py laws/test_surroundings.py test_cli.py"
    ),
    "memnets/training/report.py": "test_cli.py",
    "memnets/training/schedules.py": "test_callbacks.py test_cli.py",
    "memnets/training/runs.py": (
        "test_checkpoints.py test_cli.py test_translate.py test_resume.py test_scoreboard.py"
    ),
    "memnets/training/truncation.py": "test_truncation.py test_machine.py",
    "memnets/viewing/": "test_trace.py test_cli.py",
    "memnets/viewing/colours.py": "test_plots.py",
    "memnets/viewing/names.py": "test_plots.py test_scoreboard.py",
    "memnets/viewing/plots/": "test_plots.py test_trace.py test_cli.py test_scoreboard.py",
    "memnets/viewing/trace.py": "test_trace.py test_interventions.py",
    "memnets/vocabulary.py": "test_vocabulary.py test_translate.py tasks/test_translation.py",
    "tasks/": "tasks/test_base.py",
    "tasks/base.py": (
        "tasks/test_base.py tasks/test_copying.py tasks/test_tokens.py tasks/test_pointing.py "
        "tasks/test_ntm_tasks.py tasks/test_translation.py test_cli.py"
    ),
    "tasks/captions.py": "tasks/test_captions.py laws/test_surroundings.py",
    "tasks/copying.py": "tasks/test_copying.py test_cli.py",
    "tasks/images.py": "tasks/test_drawing.py",
    "tasks/pictures.py": "tasks/test_pictures.py tasks/test_images.py",
    "tasks/fewshot/": "tasks/test_fewshot.py tasks/test_bandits.py",
    "tasks/fewshot/bandits.py": "tasks/test_bandits.py test_trace.py",
    "tasks/fewshot/images.py": "tasks/test_images.py tasks/test_fewshot.py",
    "tasks/fewshot/online.py": "tasks/test_fewshot.py",
    "tasks/geometry.py": "tasks/test_geometry.py tasks/test_pointing.py",
    "tasks/limits.py": "tasks/test_limits.py",
    "tasks/pairs.py": "tasks/test_pronunciation.py tasks/test_translation.py",
    "tasks/pointing.py": "tasks/test_pointing.py tasks/test_geometry.py test_pointer.py",
    "tasks/points.py": "tasks/test_points.py tasks/test_pointing.py",
    "tasks/ngrams.py": "tasks/test_ntm_tasks.py",
    "tasks/priority.py": "tasks/test_ntm_tasks.py",
    "tasks/pronunciation.py": "tasks/test_pronunciation.py",
    "tasks/recall.py": "tasks/test_ntm_tasks.py",
    "tasks/sentiment.py": "tasks/test_sentiment.py test_sentences.py",
    "tasks/vectors.py": "tasks/test_copying.py tasks/test_ntm_tasks.py",
    "tasks/tokens.py": "tasks/test_tokens.py",
    "tasks/translation/": "tasks/test_translation.py test_translate.py",
}

#: Tests whose number of examples depends on the profile.
DRAWS = re.compile(r"\bhypothesis\b|\btesting\.check")

#: Tests that need more examples than the profile ``quick`` gives.
THOROUGH = {"tests/laws/test_planted_faults.py"}

#: Files whose numbers are sizes and colours of a picture: their constants are not mutated.
LOOKS = {
    *("memnets/viewing/colours.py", "memnets/viewing/plots/attention.py"),
    *("memnets/viewing/plots/board.py", "memnets/viewing/plots/canvas.py"),
    *("memnets/viewing/plots/curves.py", "memnets/viewing/plots/heads.py"),
    *("memnets/viewing/plots/images.py", "memnets/viewing/plots/plane.py"),
}

#: Imported once, before the forks. None of them may import memnets or tasks.
HEAVY = [
    "torch",
    "torch._dynamo",
    "torch.utils.tensorboard",
    "pytorch_lightning",
    "pytorch_lightning.cli",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.loggers",
    "jsonargparse",
    "hypothesis",
    "hypothesis.stateful",
    "hypothesis.extra.numpy",
    "matplotlib.pyplot",
    "matplotlib.backends.backend_agg",
    "rich.progress",
    "yaml",
    "scipy.spatial",
    "scipy.optimize",
    "sklearn.linear_model",
    "PIL.Image",
    "sentencepiece",
    "sacrebleu",
    "babel",
]

# -- mutants --------------------------------------------------------------------------------------

COMPARISONS: dict[type[ast.cmpop], list[tuple[str, str]]] = {
    ast.Lt: [("<", "<="), ("<", ">=")],
    ast.LtE: [("<=", "<"), ("<=", ">")],
    ast.Gt: [(">", ">="), (">", "<=")],
    ast.GtE: [(">=", ">"), (">=", "<")],
    ast.Eq: [("==", "!=")],
    ast.NotEq: [("!=", "==")],
    ast.Is: [("is", "is not")],
    ast.IsNot: [(r"is\s+not", "is")],
    ast.In: [("in", "not in")],
    ast.NotIn: [(r"not\s+in", "in")],
}
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: (r"\+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: (r"\*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: (r"\*\*", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: (r"\|", "&"),
}
NAMES = {
    name: other
    for pair in (
        "mean sum", "min max", "amin amax", "argmin argmax", "any all", "minimum maximum",
        "floor ceil", "zeros ones", "zeros_like ones_like", "cumsum cumprod",
        "startswith endswith", "logical_and logical_or",
    )
    for name, other in (pair.split(), pair.split()[::-1])
}  # fmt: skip
#: Calls that speak to people.
SPEAKS = {"print", "warn", "warning", "info", "debug", "error", "rank_zero_info", "rank_zero_warn"}


@dataclass(frozen=True)
class Mutant:
    """One replacement in one file, by places in its text."""

    path: str
    start: int
    end: int
    before: str
    after: str

    @property
    def name(self) -> str:
        """Short, the same for the same mutant of the same text."""
        text = f"{self.path} {self.start} {self.before} {self.after}"
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def mutate(self, text: str) -> str:
        """The mutated text of the file."""
        return text[: self.start] + self.after + text[self.end :]

    def diff(self, text: str) -> list[str]:
        """The lines that differ, below the place."""
        before, after = text.splitlines(), self.mutate(text).splitlines()
        lines = list(difflib.unified_diff(before, after, lineterm="", n=0))[3:]
        return [f"{self.path}:{text.count(chr(10), 0, self.start) + 1}", *lines]


class Finder(ast.NodeVisitor):
    """Finds the mutants of a file."""

    def __init__(self, path: str, text: str) -> None:
        self.path, self.text = path, text
        self.lines = [0]
        for line in text.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.found: list[Mutant] = []

    def place(self, line: int, column: int) -> int:
        # Columns of ast count bytes.
        start = self.lines[line - 1]
        return start + len(self.text[start : self.lines[line]].encode()[:column].decode())

    def span(self, node: Any) -> tuple[int, int]:
        return (
            self.place(node.lineno, node.col_offset),
            self.place(node.end_lineno, node.end_col_offset),
        )

    def add(self, start: int, end: int, after: str) -> None:
        self.found.append(Mutant(self.path, start, end, self.text[start:end], after))

    def replace(self, node: ast.AST, after: str) -> None:
        self.add(*self.span(node), after)

    def source(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.text[start:end]

    def between(self, left: ast.AST, right: ast.AST, pattern: str, after: str) -> None:
        """Replace the operator between two nodes."""
        start, end = self.span(left)[1], self.span(right)[0]
        gap = re.sub(r"#.*", lambda comment: " " * len(comment[0]), self.text[start:end])
        word = rf"\b(?:{pattern})\b" if pattern[0].isalpha() else pattern
        if match := re.search(word, gap):
            self.add(start + match.start(), start + match.end(), after)

    # What is not mutated: words, types and names.

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None: ...

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(name, ast.Name) and name.id == "__all__" for name in node.targets):
            return
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            value = node.value
            plain = isinstance(value, ast.Name) or ast.unparse(value).startswith("super()")
            if not plain:  # a missing self.size = size is found by the first import
                self.replace(node, "pass")
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        decorators = {
            ast.unparse(each).split("(")[0].split(".")[-1] for each in node.decorator_list
        }
        if decorators & {"abstractmethod", "overload"}:
            return
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        for statement in node.body:
            self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if any(ast.unparse(base).startswith("Protocol") for base in node.bases):
            return
        for statement in node.body:
            self.visit(statement)

    def visit_Raise(self, node: ast.Raise) -> None:
        if "NotImplementedError" not in ast.unparse(node):
            self.replace(node, "pass")

    def visit_Assert(self, node: ast.Assert) -> None: ...  # an assert tells a type checker

    # What is mutated.

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
            return
        self.condition(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.condition(node.test)
        self.generic_visit(node)

    def condition(self, test: ast.expr) -> None:
        negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        if not negated and not isinstance(test, ast.Compare):
            self.replace(test, f"(not ({self.source(test)}))")

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):  # a docstring
            return
        if isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func)
            if called.split(".")[-1] in SPEAKS:
                return
            if called != "super().__init__":
                self.replace(node, "pass")
        self.generic_visit(node)

    def visit_Break(self, node: ast.Break) -> None:
        self.replace(node, "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        self.replace(node, "break")

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if type(node.op) in ARITHMETIC:
            pattern, after = ARITHMETIC[type(node.op)]
            self.between(node.target, node.value, pattern, after)
        self.replace(node, "pass")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, op, right in zip(
            [node.left, *node.comparators], node.ops, node.comparators, strict=False
        ):
            for pattern, after in COMPARISONS[type(op)]:
                self.between(left, right, pattern, after)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        text = any(
            isinstance(side, ast.JoinedStr)
            or (isinstance(side, ast.Constant) and isinstance(side.value, str))
            for side in (node.left, node.right)
        )
        if type(node.op) in ARITHMETIC and not text:
            pattern, after = ARITHMETIC[type(node.op)]
            self.between(node.left, node.right, pattern, after)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.between(left, right, *words)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.Invert | ast.USub):
            self.replace(node, f"({self.source(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.replace(node, str(not value))
        elif isinstance(value, int) and self.path not in LOOKS:
            self.replace(node, str(value + 1))
            if value:
                self.replace(node, str(value - 1))
        elif isinstance(value, float) and self.path not in LOOKS:
            self.replace(node, repr(2 * value if value else 1.0))

    def visit_Slice(self, node: ast.Slice) -> None:
        for bound in (node.lower, node.upper):
            if bound is not None:
                self.replace(bound, "")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func)
        last = called.split(".")[-1]
        if last in SPEAKS or last in ("getLogger", "TypeVar", "add_argument"):
            return
        end = self.span(node.func)[1]
        if last in NAMES and self.text[end - len(last) : end] == last:
            self.add(end - len(last), end, NAMES[last])
        if isinstance(node.func, ast.Attribute) and last in ("detach", "contiguous", "clone"):
            self.replace(node, self.source(node.func.value))
        if last in ("where", "lerp", "clamp") and len(node.args) >= 2:
            *_, one, two = node.args if last != "lerp" else node.args[:2]
            swapped = f"{self.source(two)}, {self.source(one)}"
            self.add(self.span(one)[0], self.span(two)[1], swapped)
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in ("help", "title", "label", "description", "stacklevel"):
            self.visit(node.value)


def mutants(path: str, text: str) -> list[Mutant]:
    """Every mutant of a file; some may not compile or be the same program."""
    finder = Finder(path, text)
    finder.visit(ast.parse(text))
    return list(dict.fromkeys(finder.found))


def another_program(mutant: Mutant, text: str) -> bool:
    """Whether a mutant compiles, to something else than the code."""
    try:
        return ast.dump(ast.parse(mutant.mutate(text))) != ast.dump(ast.parse(text))
    except SyntaxError:
        return False


def tests_of(path: str) -> list[str]:
    """The test files of a file, as paths from the root."""
    key = max((key for key in TESTS if path.startswith(key)), key=len)
    return [f"tests/{name}" for name in TESTS[key].split()]


# -- running --------------------------------------------------------------------------------------


class Server:
    """Runs pytest in forks of a process that has imported what is heavy, in a copy of the tree."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder / "tree", folder / "log"
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout.splitlines()  # fmt: skip
        for name in listed:
            if (ROOT / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        digest = hashlib.sha256()
        for name in sorted(listed):
            if name.endswith(".py") and (ROOT / name).is_file():
                digest.update((ROOT / name).read_bytes())
        self.digest = digest.hexdigest()
        sys.path[0] = str(self.folder)
        for name in HEAVY:
            try:
                importlib.import_module(name)
            except ImportError as error:
                print(f"not imported before the forks: {error}")
        ours = {name.partition(".")[0] for name in sys.modules} & {*PACKAGES, "tests"}
        if ours:
            raise RuntimeError(f"{', '.join(ours)} must be imported by the forks alone")

    def run(
        self, tests: list[str], profile: str, timeout: float, without: list[str]
    ) -> tuple[str, str, float]:
        """``passed``, ``failed`` or ``timed out``; the first failure; and the seconds it took."""
        start = time.monotonic()
        process = os.fork()
        if not process:
            self._child([*tests, *(f"--deselect={name}" for name in without)], profile)
        status = None
        try:
            while time.monotonic() - start < timeout:
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    break
                status = None
                time.sleep(0.05)
        finally:
            # The fork leads a group of its own, with all that its tests started.
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
            if status is None:
                os.waitpid(process, 0)
        seconds = time.monotonic() - start
        if status is None:
            return "timed out", "", seconds
        if status == 0:
            return "passed", "", seconds
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) in (4, 5):
            raise RuntimeError(f"pytest found no tests in {' '.join(tests)}; see {self.log}")
        lines = self.log.read_text(errors="replace").splitlines()
        first = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), str(status))
        return "failed", first, seconds

    def _child(self, arguments: list[str], profile: str) -> NoReturn:
        code = 3
        try:
            os.setsid()
            os.chdir(self.folder)
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(log, stream)
            os.environ |= {
                "HYPOTHESIS_PROFILE": profile,
                "PYTHONPATH": str(self.folder),
                "PYTHONDONTWRITEBYTECODE": "1",
            }
            # Files of one size within one second would be taken for each other.
            sys.dont_write_bytecode = True
            sys.argv = ["pytest"]
            options = [
                *("-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist"),
                *("-o", "addopts=-ra --strict-markers"),
                # hypothesis was imported before pytest could look at its asserts.
                *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
            ]
            code = int(pytest.main([*options, *arguments]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


class Record:
    """The outcome of each mutant, in a JSON file that is written after each."""

    def __init__(self, path: Path, seed: int, digest: str) -> None:
        self.path = path
        self.content: dict[str, Any] = {"seed": seed, "mutants": {}}
        if path.exists():
            self.content = json.loads(path.read_text())
            if self.content["seed"] != seed:
                raise SystemExit(f"{path} was drawn with seed {self.content['seed']}, not {seed}")
        if self.content.get("tree") != digest:
            self.content |= {"tree": digest, "seconds": {}, "sound": [], "unsound": []}
        self.mutants: dict[str, dict[str, Any]] = self.content["mutants"]
        #: How long tests took that found nothing, and tests that hold on the code as it is.
        self.seconds: dict[str, float] = self.content["seconds"]
        self.sound: list[str] = self.content["sound"]
        self.unsound: list[str] = self.content["unsound"]

    def write(self) -> None:
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.content, indent=1))
        part.replace(self.path)

    def summary(self) -> str:
        outcomes = Counter(each["outcome"] for each in self.mutants.values())
        found = outcomes["killed"] + outcomes["timed out"]
        judged = found + outcomes["survived"]
        score = f"{found / judged:.1%}" if judged else "none"
        counts = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
        return f"{len(self.mutants)} mutants: {counts}; found of those not equivalent: {score}"


def judge(server: Server, record: Record, mutant: Mutant, whole: bool) -> dict[str, Any]:
    """Run the tests of a mutant, until one fails."""
    text = (ROOT / mutant.path).read_text()
    outcome: dict[str, Any] = {
        "outcome": "survived",
        "path": mutant.path,
        "diff": mutant.diff(text),
        "by": "",
        "seconds": 0.0,
    }
    tests = tests_of(mutant.path)
    stages = [([name for name in tests if name not in THOROUGH], "quick")]
    # More examples change nothing for tests that draw none.
    if drawing := [name for name in tests if DRAWS.search((ROOT / name).read_text())]:
        stages.append((drawing, "default"))
    if whole:
        stages.append((["tests"], "default"))
    file = server.folder / mutant.path
    for chosen, profile in stages:
        key = f"{profile}: {' '.join(chosen)}"
        while True:
            try:
                file.write_text(mutant.mutate(text))
                limit = 60 + 6 * record.seconds[key] if key in record.seconds else 900
                status, first, seconds = server.run(chosen, profile, limit, record.unsound)
            finally:
                file.write_text(text)
            outcome["seconds"] = round(outcome["seconds"] + seconds, 1)
            test = re.match(r"(?:FAILED|ERROR) (\S+?\.py(?:::\w+)*)", first)
            if test is None or test[1] in record.sound:
                break
            # Does that test hold without the mutant?
            if server.run([test[1]], profile, 900, [])[0] == "passed":
                record.sound.append(test[1])
                break
            print(f"{test[1]} fails without a mutant, {profile}; it is left out")
            record.unsound.append(test[1])
        if status != "passed":
            outcome["outcome"] = "killed" if status == "failed" else status
            outcome["by"] = f"{profile}: {first}"
            break
        record.seconds[key] = seconds
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=40, help="how many mutants to draw")
    parser.add_argument("--seed", type=int, default=0, help="the draw's")
    parser.add_argument("--record", type=Path, default=Path("mutants.json"), help="the JSON file")
    parser.add_argument("--only", nargs="*", default=PACKAGES, help="files or folders to mutate")
    parser.add_argument("--again", default=None, help="run those with this outcome once more")
    parser.add_argument("--whole", action="store_true", help="survivors meet the whole suite too")
    parser.add_argument("--list", action="store_true", help="print the mutants, run nothing")
    parser.add_argument("--equivalent", nargs="*", help="mark these survivors as equivalent")
    parser.add_argument("--because", default="", help="the reason for --equivalent")
    options = parser.parse_args()

    if options.equivalent:
        content = json.loads(options.record.read_text())
        for name in options.equivalent:
            content["mutants"][name] |= {"outcome": "equivalent", "because": options.because}
        options.record.write_text(json.dumps(content, indent=1))
        return

    paths = [
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    ]
    every = [
        mutant
        for path in paths
        if path.startswith(tuple(options.only))
        for mutant in mutants(path, (ROOT / path).read_text())
    ]
    random.Random(options.seed).shuffle(every)
    valid = (m for m in every if another_program(m, (ROOT / m.path).read_text()))
    drawn = list(islice(valid, options.count))
    print(f"{len(drawn)} of {len(every)} mutants")
    if options.list:
        for mutant in drawn:
            print(mutant.name, *mutant.diff((ROOT / mutant.path).read_text()), sep="\n    ")
        return

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        server = Server(Path(folder))
        record = Record(options.record, options.seed, server.digest)
        for number, mutant in enumerate(drawn, 1):
            known = record.mutants.get(mutant.name)
            if known is not None and known["outcome"] != options.again:
                continue
            outcome = judge(server, record, mutant, options.whole)
            record.mutants[mutant.name] = outcome
            record.write()
            print(f"{number}/{len(drawn)} {mutant.name} {outcome['outcome']}, {outcome['by']}")
            if outcome["outcome"] != "killed":
                print(*outcome["diff"], sep="\n    ")
            sys.stdout.flush()
    survivors = [(n, each) for n, each in record.mutants.items() if each["outcome"] == "survived"]
    for name, each in survivors:
        print(name, *each["diff"], sep="\n    ")
    print(record.summary())


if __name__ == "__main__":
    main()
