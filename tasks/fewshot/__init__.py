"""Learning from few examples: classes of images (FewShot), sines (Sinusoids)."""

from tasks.fewshot.images import FewShot
from tasks.fewshot.sinusoids import Sinusoids

__all__ = ["FewShot", "Sinusoids"]
