"""Figures: one module a question, each usable alone.

Every module has ``table(...)`` (the tidy data that is drawn), ``finding(table)`` (what it shows, in a
sentence with numbers) and ``figure(...)`` (tables in, ``go.Figure`` out). A figure's title is its finding;
how to read it and what it shows in words stand in ``figure.layout.meta``. For a dark notebook:
``sim.report.theme.in_mode(figure, "dark")``.
"""
