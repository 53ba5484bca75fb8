"""The packages, which pyproject.toml cannot list: ``configs/`` becomes ``memnets/configs/``."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["memnets*", "tasks*"]), "memnets.configs"],
    package_dir={"memnets.configs": "configs"},
)
