"""Colours that can be seen, styles that do not rest on colour, strings that cannot become markup."""

from __future__ import annotations

import itertools
import re

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.report import theme

STYLES = [
    *theme.category_styles([f"c{i}" for i in range(7)]).values(),
    *theme.CATEGORY_STYLES.values(),
    *theme.PHASE_STYLES.values(),
    *theme.PART_STYLES.values(),
]


@pytest.mark.parametrize("style", STYLES)
def test_strokes_and_fills_are_seen_on_both_papers(style: theme.Style) -> None:
    assert theme.contrast(style.color, theme.LIGHT.paper) >= 3
    assert theme.contrast(style.dark, theme.DARK.paper) >= 3


@pytest.mark.parametrize("colors", [theme.LIGHT, theme.DARK])
def test_text_is_readable(colors: theme.Palette) -> None:
    for ink in (colors.text, colors.muted, colors.accent):
        assert theme.contrast(ink, colors.paper) >= 4.5


def test_text_on_fills_is_readable_in_both_modes() -> None:
    mapping = theme.dark_map()
    for style in STYLES:
        ink = theme.on(style)
        assert theme.contrast(ink, style.color) >= 4.5, style
        assert theme.contrast(mapping.get(ink, ink), style.dark) >= 4.5, style


def test_no_two_styles_share_colour_and_dash() -> None:
    styles = theme.category_styles([f"c{i:02d}" for i in range(20)])
    pairs = [(style.color, style.dash) for style in styles.values()]
    assert len(set(pairs)) == len(pairs)


def test_a_shared_category_keeps_its_colour_whoever_stands_beside_it() -> None:
    alone = theme.category_styles(["coding"])["coding"]
    assert theme.category_styles(["aaa", "coding", "zzz"])["coding"] == alone
    assert theme.category_styles(["proof", "coding"])["coding"] == alone


def test_known_categories_and_phases_differ_among_themselves() -> None:
    for styles in (theme.CATEGORY_STYLES, theme.PHASE_STYLES):
        for one, other in itertools.combinations(styles.values(), 2):
            assert one.color != other.color
            assert (one.dash, one.symbol) != (other.dash, other.symbol)


@given(st.text())
def test_no_string_reaches_a_figure_as_markup(text: str) -> None:
    safe = theme.safe(text)
    assert not set(safe) & set("<>\"'")
    assert re.fullmatch(r"(?:[^<>\"'&]|&(?:lt|gt|amp|quot|#x27);)*", safe)
    assert safe.isprintable()


def test_long_names_keep_both_ends() -> None:
    assert theme.label("a" * 40 + "z") == "a" * 12 + "…" + "a" * 10 + "z"
    assert theme.label("a" * 24) == "a" * 24


def test_dark_mode_touches_colours_only() -> None:
    figure = theme.new_figure()
    figure.add_trace(
        go.Scatter(
            x=[1],
            y=[1],
            name=theme.BLUE.color,
            text=[theme.BLUE.color],
            line={"color": theme.BLUE.color},
            marker={"color": [theme.GREEN.color]},
        )
    )
    dark = theme.in_mode(figure, "dark")
    assert dark.data[0].line.color == theme.BLUE.dark
    assert list(dark.data[0].marker.color) == [theme.GREEN.dark]
    assert (dark.data[0].name, list(dark.data[0].text)) == (theme.BLUE.color, [theme.BLUE.color])
    assert dark.layout.template.layout.paper_bgcolor == theme.DARK.paper
    assert figure.data[0].line.color == theme.BLUE.color
