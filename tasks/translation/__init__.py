"""Translation, from phrases of CLDR, from text files and from gettext catalogues."""

from tasks.translation.task import Translation

__all__ = ["Translation"]
