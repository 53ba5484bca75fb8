"""Fast twins of the parts; importing them registers them with :mod:`memnets.fast`."""

from memnets.kernels import additive, attention, dnc, loop, ntm

__all__ = ["additive", "attention", "dnc", "loop", "ntm"]
