"""Fast twins of the parts, which register themselves with :mod:`memnets.fast`."""

from memnets.kernels import additive, attention, dnc, loop, ntm

__all__ = ["additive", "attention", "dnc", "loop", "ntm"]
