"""``python -m bnnlib`` is ``bnn``."""

from bnnlib.cli import main

if __name__ == "__main__":
    main()
