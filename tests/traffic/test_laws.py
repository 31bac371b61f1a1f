"""Each law against theory: quantiles, moments, order, caps; and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from workloads.laws import Law

LAW = TypeAdapter(Law)
U = np.linspace(0.001, 0.999, 777)


def law(**data):
    return LAW.validate_python(data)


def mixture_cdf(x):
    return 0.8 * stats.norm.cdf((np.log(x) - 6.0) / 0.66) + 0.2 * stats.norm.cdf((np.log(x) - 7.95) / 0.84)


THEORY = [
    (law(law="lognormal", median=300, sigma=0.8), stats.lognorm(0.8, scale=300)),
    (
        law(law="lognormal", mean=1000, cv=2),
        stats.lognorm(math.sqrt(math.log(5)), scale=1000 / math.sqrt(5)),
    ),
    (law(law="weibull", scale=1463, shape=0.92), stats.weibull_min(0.92, scale=1463)),
    (law(law="gamma", mean=500, cv=1.7), stats.gamma(1 / 1.7**2, scale=500 * 1.7**2)),
    (law(law="pareto", scale=100, alpha=2.1), stats.pareto(2.1, scale=100)),
    (law(law="uniform", low=10, high=20), stats.uniform(10, 10)),
    (law(law="beta", components=[{"weight": 2, "a": 4.62, "b": 1.21}]), stats.beta(4.62, 1.21)),
]


@pytest.mark.parametrize(("made", "theory"), THEORY, ids=lambda x: getattr(x, "law", ""))
def test_quantiles_follow_theory(made, theory):
    np.testing.assert_allclose(made.quantile(U), theory.ppf(U), rtol=2e-3)


@pytest.mark.parametrize(("made", "theory"), THEORY, ids=lambda x: getattr(x, "law", ""))
def test_average_follows_theory(made, theory):
    assert made.average() == pytest.approx(theory.mean(), rel=0.01)


def test_mixture_inverts_its_own_distribution():
    made = law(
        law="mixture",
        components=[
            {"weight": 0.8, "median": math.exp(6.0), "sigma": 0.66},
            {"weight": 0.2, "median": math.exp(7.95), "sigma": 0.84},
        ],
    )
    np.testing.assert_allclose(mixture_cdf(made.quantile(U)), U, atol=2e-5)


def test_atoms_carry_their_probability_exactly():
    made = law(
        law="mixture",
        components=[{"weight": 0.7, "median": 800, "sigma": 0.9}],
        atoms=[{"weight": 0.2, "value": 1500}, {"weight": 0.1, "value": 26}],
    )
    drawn = made.quantile((np.arange(100_000) + 0.5) / 100_000)
    assert (np.abs(drawn - 1500) < 1e-6).mean() == pytest.approx(0.2, abs=1e-4)
    assert (np.abs(drawn - 26) < 1e-6).mean() == pytest.approx(0.1, abs=1e-4)
    below = 0.7 * stats.norm.cdf(np.log(1000 / 800) / 0.9) + 0.1
    assert (drawn <= 1000).mean() == pytest.approx(below, abs=1e-3)


def test_two_betas_are_bimodal_as_measured():
    parts = [{"weight": 0.221, "a": 16.5, "b": 26.6}, {"weight": 0.779, "a": 4.62, "b": 1.21}]
    drawn = law(law="beta", components=parts).quantile((np.arange(50_000) + 0.5) / 50_000)
    density, edges = np.histogram(drawn, bins=40, range=(0, 1))
    trough = edges[15 + density[15:25].argmin()]
    assert 0.45 < trough < 0.62
    assert drawn.mean() == pytest.approx(0.221 * 16.5 / 43.1 + 0.779 * 4.62 / 5.83, abs=0.002)


def test_splice_has_the_bodys_quantiles_below_and_a_pareto_tail_above():
    body = {"law": "lognormal", "median": 800, "sigma": 1.0}
    made = law(law="spliced", body=body, tail_from=5000, alpha=1.8)
    plain = law(**body)
    low = U[plain.quantile(U) < 4900]
    np.testing.assert_allclose(made.quantile(low), plain.quantile(low), rtol=1e-6)
    tail = 1 - stats.norm.cdf(math.log(5000 / 800))
    for times in (2, 4, 8):
        share = tail * times**-1.8
        assert made.quantile([1 - share])[0] == pytest.approx(5000 * times, rel=1e-6)


def test_splice_with_its_own_tail_share():
    body = {"law": "lognormal", "median": 800, "sigma": 1.0}
    made = law(law="spliced", body=body, tail_from=5000, alpha=2, tail_share=0.1)
    drawn = made.quantile((np.arange(20_000) + 0.5) / 20_000)
    assert (drawn > 5000).mean() == pytest.approx(0.1, abs=2e-3)


def test_empirical_values_are_drawn_as_they_are_and_quantiles_between():
    assert set(law(law="empirical", values=[3, 9, 9]).quantile(U)) == {3.0, 9.0}
    assert law(law="empirical", quantiles={0: 10, 0.5: 20, 1: 100}).quantile([0.25, 0.75]).tolist() == [
        15,
        60,
    ]


@settings(max_examples=60)
@given(st.sampled_from([made for made, _ in THEORY]), st.floats(0.5, 5000), st.floats(1, 4))
def test_caps_hold_and_quantiles_rise(made, low, ratio):
    capped = made.model_copy(update={"min": low, "max": low * ratio})
    drawn = capped.quantile(U)
    assert (drawn >= low).all()
    assert (drawn <= low * ratio).all()
    assert (np.diff(made.quantile(U)) >= 0).all()


def test_extreme_latents_stay_finite():
    z = np.array([-9.0, -40.0, 9.0, 40.0])
    for made, _ in THEORY:
        assert np.isfinite(made.from_normal(z)).all(), made


def test_a_number_is_a_constant():
    assert LAW.validate_python(200).quantile(U).tolist() == [200.0] * len(U)


@pytest.mark.parametrize(
    "data",
    [
        {"law": "lognormal", "median": 300},
        {"law": "lognormal", "median": 300, "sigma": 1, "mean": 4},
        {"law": "lognormal", "median": -1, "sigma": 1},
        {"law": "lognormal", "median": float("nan"), "sigma": 1},
        {"law": "uniform", "low": 5, "high": 1},
        {"law": "pareto", "scale": 1, "alpha": 0},
        {"law": "mixture"},
        {"law": "empirical"},
        {"law": "empirical", "values": []},
        {"law": "empirical", "quantiles": {0: 5, 1: 2}},
        {"law": "beta", "components": [], "atoms": [{"weight": 1, "value": 2}]},
        {"law": "lognormal", "median": 300, "sigma": 1, "min": 9, "max": 3},
        {"law": "lognormal", "median": "16K", "sigma": 1},
        {"law": "zipf", "alpha": 1},
        {"law": "lognormal", "median": 300, "sigmaa": 1},
    ],
)
def test_bad_laws_are_refused(data):
    with pytest.raises(ValidationError):
        LAW.validate_python(data)
