"""``python -m tabellion.cli``."""

from tabellion.cli import main

if __name__ == "__main__":
    main()
