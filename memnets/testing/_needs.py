"""Imported before all others of this package, to say in one line that Hypothesis is missing."""

from memnets.extras import check_extra

check_extra("testing", "memnets.testing", "hypothesis")
