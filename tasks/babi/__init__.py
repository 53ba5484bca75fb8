"""Stories with questions: the bAbI tasks (Weston et al. 2015)."""

from tasks.babi.stories import FAMILIES, draw_stories
from tasks.babi.task import Babi
from tasks.babi.text import Question

__all__ = ["FAMILIES", "Babi", "Question", "draw_stories"]
