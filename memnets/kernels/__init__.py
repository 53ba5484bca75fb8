"""Fast twins of the parts; importing them registers them with :mod:`memnets.fast`.

Every module of this package is imported with it: a new twin is a new file here, and nothing else.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
