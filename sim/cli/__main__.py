"""``python -m sim.cli`` is ``thinkcap``."""

from sim.cli.main import entry

if __name__ == "__main__":
    entry()
