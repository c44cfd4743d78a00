"""Runs the `framework` command: ``python -m framework``."""

from framework._cli import main

if __name__ == "__main__":
    main()
