"""Few-shot learning: classes of images (FewShot, OnlineFewShot), sines (Sinusoids), bandits."""

from tasks.fewshot.bandits import Bandits
from tasks.fewshot.images import FewShot
from tasks.fewshot.online import OnlineFewShot
from tasks.fewshot.sinusoids import Sinusoids

__all__ = ["Bandits", "FewShot", "OnlineFewShot", "Sinusoids"]
