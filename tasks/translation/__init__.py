"""Translation of phrases of CLDR, text files and gettext catalogues."""

from tasks.translation.task import Translation

__all__ = ["Translation"]
