"""Learning from few examples: classes of images (FewShot), sines (Sinusoids), arms (Bandits)."""

from tasks.fewshot.bandits import Bandits
from tasks.fewshot.images import FewShot
from tasks.fewshot.sinusoids import Sinusoids

__all__ = ["Bandits", "FewShot", "Sinusoids"]
