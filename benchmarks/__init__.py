"""Speed of the engine and of the whole simulation beside a bare loop: ``python -m benchmarks.run``."""
