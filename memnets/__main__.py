"""``python -m memnets`` is the command ``memnets``."""

from memnets.app.stopping import stoppable


def main() -> None:
    """Run the command line; a signal is heard from the first moment, for imports take seconds."""
    with stoppable():
        from memnets.app.cli import main

        main()


if __name__ == "__main__":
    main()
