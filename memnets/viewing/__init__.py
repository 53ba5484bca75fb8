"""Views: the trace of a model, plots, and the pictures of a test."""
