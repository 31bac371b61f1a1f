"""Laws of answers: closed forms against counting, the judge against closed forms, and strategies by hand."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.policies.reasoning import Outcome
from sim.policies.strategies.majority_vote import decided, plurality
from sim.rng import Streams
from workloads.quality.chain_of_thought import GAINS, TASKS, without_reasoning
from workloads.quality.exact import best_of, majority
from workloads.quality.fit import fit_samples, fit_tokens
from workloads.quality.judge import NONE, RIGHT, Judge
from workloads.quality.spec import AnswerLaw, QualitySpec

chances = st.floats(0.02, 0.98)

settings.register_profile("unhurried", deadline=None)  # the first call imports scipy
settings.load_profile("unhurried")


def judge(law: AnswerLaw, **spec: object) -> Judge:
    section = QualitySpec(benchmark="b", models={"any": {"b": law}}, **spec)
    return Judge(section, Streams(11), pools=[("p", "m")], categories=["c"])


def labels(made: Judge, queries: int, samples: int, reasoning: int = 100, natural: int = 100) -> np.ndarray:
    query, sample = (part.ravel() for part in np.mgrid[:queries, :samples])
    same = np.zeros(len(query), np.int64)
    return made.answers(
        query=query,
        sample=sample,
        prompt=same - 1,
        pool=same,
        category=same,
        reasoning=same + reasoning,
        natural=same + natural,
        answered=np.ones(len(query), bool),
    ).reshape(queries, samples)


@given(st.integers(1, 40), chances)
def test_majority_of_two_answers_is_the_binomial(samples, p):
    need = sum(
        math.comb(samples, n) * p**n * (1 - p) ** (samples - n) * (1 if 2 * n > samples else 0.5)
        for n in range(samples + 1)
        if 2 * n >= samples
    )
    assert majority(samples, p) == pytest.approx(need, abs=1e-9)


@given(st.integers(1, 6), st.integers(1, 4), chances)
@settings(max_examples=40, deadline=None)
def test_plurality_is_what_counting_all_outcomes_gives(samples, wrong, p):
    total = 0.0
    for answers in product(range(wrong + 1), repeat=samples):
        chance = math.prod(p if a == 0 else (1 - p) / wrong for a in answers)
        counts = [answers.count(a) for a in range(wrong + 1)]
        if counts[0] == max(counts):
            total += chance / counts.count(counts[0])
    assert majority(samples, p, None, wrong) == pytest.approx(total, abs=1e-9)


@given(st.integers(1, 40), chances, st.one_of(st.none(), st.floats(0.3, 30)))
@settings(deadline=None)
def test_an_ideal_verifier_finds_any_right_answer_and_a_useless_one_none(samples, p, concentration):
    assert best_of(samples, p, concentration, 0.0) == pytest.approx(p, abs=1e-4)
    if concentration is None:
        assert best_of(samples, p, None, math.inf) == pytest.approx(1 - (1 - p) ** samples, abs=1e-9)
    assert best_of(samples, p, concentration, 0.7) >= p - 1e-4


def test_a_weak_verifier_loses_to_majority_and_a_strong_one_wins():
    """DeepSeek-7B on MATH: majority 57.4 %, an outcome model 52.4 %, a process model 58.1 % (RLHFlow, N = 1,024)."""
    vote = majority(64, 0.424, 1.0, 8)
    assert best_of(64, 0.424, 1.0, 0.3) < vote < best_of(64, 0.424, 1.0, 2.5)


@given(st.floats(0.5001, 0.99), st.integers(1, 60), st.integers(1, 6))
@settings(deadline=None)
def test_more_votes_never_hurt_above_one_half(p, samples, wrong):
    assert majority(samples + 1, p, None, wrong) >= majority(samples, p, None, wrong) - 1e-9


@pytest.mark.parametrize(("concentration", "wrong"), [(None, 1), (None, 4), (2.0, 1), (1.5, 5)])
def test_the_judge_draws_what_the_closed_form_says(concentration, wrong):
    law = AnswerLaw(accuracy=0.6, concentration=concentration, wrong_answers=wrong)
    drawn = labels(judge(law), 4000, 9)
    assert drawn.min() >= RIGHT
    assert drawn.max() == wrong
    assert (drawn == RIGHT).mean() == pytest.approx(0.6, abs=0.02)
    counts = np.stack([(drawn == label).sum(1) for label in range(wrong + 1)], axis=1)
    best = counts.max(1)
    won = np.where(counts[:, 0] == best, 1 / (counts == best[:, None]).sum(1), 0).mean()
    assert won == pytest.approx(majority(9, 0.6, concentration, wrong), abs=0.025)


@given(st.integers(0, 300), st.integers(0, 40), st.integers(0, 120), st.booleans())
@settings(max_examples=60, deadline=None)
def test_one_by_one_is_as_in_bulk(query, sample, reasoning, answered):
    law = AnswerLaw(accuracy=0.4, concentration=1.2, guess=0.3)
    made = judge(law, length_correlation=0.4)
    one = made.answer(
        query=query,
        sample=sample,
        prompt=-1,
        pool=0,
        category=0,
        reasoning=reasoning,
        natural=100,
        answered=answered,
    )
    array = np.array
    bulk = made.answers(
        query=array([query]),
        sample=array([sample]),
        prompt=array([-1]),
        pool=array([0]),
        category=array([0]),
        reasoning=array([reasoning]),
        natural=array([100]),
        answered=array([answered]),
    )
    assert one == bulk[0]
    assert (one == NONE) == (not answered)


def test_cut_before_it_has_settled_is_a_guess_and_more_thinking_helps():
    law = AnswerLaw(accuracy=0.8, concentration=3.0, guess=0.25, convergence=0.5)
    made = judge(law)
    shares = [float((labels(made, 3000, 1, tokens) == RIGHT).mean()) for tokens in (0, 20, 40, 60, 80, 100)]
    assert shares[0] == pytest.approx(0.25, abs=0.03)
    assert shares[-1] == pytest.approx(0.8, abs=0.03)
    assert shares == sorted(shares)


@given(st.floats(0.1, 0.95), st.floats(0.0, 0.1), st.floats(0.2, 3.0), st.floats(0.05, 1.0))
def test_accuracy_saturates_in_effort_and_passes_through_what_was_measured(accuracy, floor, effort, more):
    law = AnswerLaw(accuracy=accuracy, floor=floor)
    assert law.mean(1.0) == accuracy
    assert law.mean(1.0 + 1e-9) == pytest.approx(accuracy, abs=1e-6)
    first, second = law.mean(effort + more) - law.mean(effort), law.mean(effort + 2 * more)
    assert first >= 0
    assert second - law.mean(effort + more) <= first + 1e-12


@given(st.sampled_from(TASKS), chances, st.floats(1, 2000))
def test_the_prior_of_a_task_gives_its_measured_gain_and_less_to_small_prompted_models(task, accuracy, size):
    gain = GAINS[task]
    assert without_reasoning(gain.chain_of_thought, task) == pytest.approx(gain.standard)
    law = AnswerLaw(accuracy=accuracy, task=task)
    assert law.mean(1.0) == accuracy
    assert law.mean(1e-9) == pytest.approx(without_reasoning(accuracy, task), abs=1e-6)
    least, sized = without_reasoning(accuracy, task), without_reasoning(accuracy, task, size)
    assert min(least, accuracy) - 1e-12 <= sized <= max(least, accuracy) + 1e-12
    assert without_reasoning(accuracy, task, 62.0) == pytest.approx(accuracy)
    assert without_reasoning(accuracy, task, 540.0) == pytest.approx(least)
    stated = AnswerLaw(accuracy=accuracy, task=task, floor=accuracy / 2)
    assert stated.without_reasoning == accuracy / 2
    assert AnswerLaw(accuracy=accuracy).without_reasoning == 0.0


def test_scores_are_further_apart_for_a_better_verifier():
    made = judge(AnswerLaw(accuracy=0.5))
    scores = {d: np.array([made.score(q, 0, RIGHT, d) for q in range(500)]) for d in (0.0, 1.5)}
    assert (scores[1.5] - scores[0.0] == pytest.approx(1.5)) or np.allclose(scores[1.5] - scores[0.0], 1.5)
    assert made.score(3, 0, NONE, 1.0) == -math.inf


def said(*answers: int | None) -> list[Outcome | None]:
    return [None if a is None else Outcome(i, i, "completed", 1, 1, False, 0.0, a) for i, a in enumerate(answers)]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.data())
def test_what_is_decided_stays_decided(answers, data):
    known = data.draw(st.integers(0, len(answers)))
    part = said(*answers[:known], *[None] * (len(answers) - known))
    if decided(part):
        seen = [outcome for outcome in part if outcome is not None]
        early, late = plurality(seen, 0.3), plurality(said(*answers), 0.9)
        assert early is not None
        assert late is not None
        assert early.answer == late.answer


def test_a_tie_is_drawn():
    outcomes = said(7, 5)
    assert [plurality(outcomes, coin).answer for coin in (0.2, 0.8)] == [5, 7]


def test_fit_finds_again_what_made_the_rows():
    rows = [(n, majority(n, 0.55, 1.8, 5)) for n in (1, 2, 4, 8, 16, 32)]
    fitted = fit_samples(rows)
    assert fitted.parameters["concentration"] == pytest.approx(1.8, rel=0.02)
    assert fitted.parameters["wrong_answers"] == 5
    assert fitted.worst < 1e-3
    tokens = [(t, 0.9 - 0.6 * math.exp(-t / 2000)) for t in (250, 500, 1000, 4000, 16000)]
    assert fit_tokens(tokens).worst < 2e-3


def test_aime_is_fitted_to_one_model_and_predicts_the_others_blind():
    """AIME 2024 has 30 problems, so cons@64 has a standard error of some 7 points."""
    from workloads.quality.published import BENCHMARKS, ROWS

    shared = BENCHMARKS["aime-2024"]
    known = {row.model: row for row in ROWS if row.benchmark == "aime-2024" and row.consensus_64 is not None}
    one = known["r1-distill-qwen-7b"]
    fitted = fit_samples([(1, one.accuracy), (64, one.consensus_64)]).parameters
    assert fitted["wrong_answers"] == shared.wrong_answers
    assert fitted["concentration"] == pytest.approx(shared.concentration, abs=0.01)
    errors = {
        name.removeprefix("r1-distill-"): round(
            majority(64, row.accuracy, shared.concentration, shared.wrong_answers) - row.consensus_64, 3
        )
        for name, row in known.items()
        if name.startswith("r1-distill")
    }
    # What a blind prediction is worth, as it came out: not a bound that was aimed at.
    assert errors == pytest.approx(
        {
            "qwen-7b": 0.0,
            "qwen-1.5b": -0.209,
            "llama-8b": -0.043,
            "qwen-14b": 0.158,
            "qwen-32b": 0.137,
            "llama-70b": 0.092,
        },
        abs=0.002,
    )


def test_figures_are_shares_and_have_sources():
    from workloads.quality.published import ROWS

    assert all(0 < row.accuracy < 1 and row.source for row in ROWS)
    assert len({(row.model, row.benchmark) for row in ROWS}) == len(ROWS)
