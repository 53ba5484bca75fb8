"""Memory-augmented neural networks on one differentiable read/write addressing abstraction.

Start with :mod:`memnets.core`.
"""
