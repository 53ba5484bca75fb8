"""Pictures: what a model looked at, and what it answered."""
