"""Measurements that others published, in their own file formats, as our measurement tables."""
