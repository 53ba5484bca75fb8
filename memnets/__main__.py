"""``python -m memnets`` is the command ``memnets``."""

from memnets.app.cli import main

if __name__ == "__main__":
    main()
