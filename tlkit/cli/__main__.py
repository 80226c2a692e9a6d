"""``python -m tlkit.cli``: the command ``tlkit`` where its script is not on the path."""

import sys

from tlkit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
