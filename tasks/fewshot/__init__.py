"""Few-shot learning: classes of images (FewShot), sines (Sinusoids), bandits (Bandits)."""

from tasks.fewshot.bandits import Bandits
from tasks.fewshot.images import FewShot
from tasks.fewshot.sinusoids import Sinusoids

__all__ = ["Bandits", "FewShot", "Sinusoids"]
