"""Whole runs of a controller on a memory in C++, on the CPU."""
