"""``python -m tabellion_server``."""

from tabellion_server.cli import main

if __name__ == "__main__":
    main()
