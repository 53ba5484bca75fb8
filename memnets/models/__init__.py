"""Models: Lightning modules that encode a source and decode an answer over explicit state."""

from memnets.models.base import Model, TrainingDiverged
from memnets.models.machine import MachineState, MemoryMachine

__all__ = ["MachineState", "MemoryMachine", "Model", "TrainingDiverged"]
