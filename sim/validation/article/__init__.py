"""The background article's tables beside what is published and what we compute and simulate.

One module a table; ``reproduce`` runs them all. The article's figures stand in ``claims.yaml``.
"""
