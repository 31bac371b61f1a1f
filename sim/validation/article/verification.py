"""Voting and verifiers on MATH-500, and the vote at p = 0.6: closed forms and runs."""

from __future__ import annotations

from sim.report.article_text import as_points, as_share
from sim.validation.article.cases import Case, Ran
from sim.validation.article.rows import Row, Table, claims, judge
from workloads.quality.exact import best_of, majority
from workloads.quality.fit import Fitted, fit_discrimination, fit_samples

SCENARIO, VOTE = "article/verification", "article/majority_vote"
WRONG = 4
"""Alternatives, as assumed for MATH-500 elsewhere; what others would predict is said beside."""
OTHERS = (1, 2, 8, 12)
RUN_VOTES = (1, 3, 5, 16, 64)
"""Votes at p = 0.6 that are simulated; larger ones are the closed form alone."""
SEQUENCES = 128
"""In flight at most."""


def fits(wrong: int = WRONG) -> tuple[Fitted, Fitted, Fitted]:
    """(difficulty from one and 16 votes, discrimination of the ORM and of the PRM from best of 16)."""
    said = claims()["verification_math500"]
    difficulty = fit_samples(
        [(said[key]["samples"], said[key]["accuracy"]) for key in ("single", "majority_16")], (wrong,)
    )
    mean, spread = said["single"]["accuracy"], difficulty.parameters["concentration"]
    orm, prm = (
        fit_discrimination([(16, said[f"best_of_16_{kind}"]["accuracy"])], mean, spread) for kind in ("orm", "prm")
    )
    return difficulty, orm, prm


def _strategy(name: str, samples: int) -> str:
    if name.startswith("best"):
        _, orm, prm = fits()
        kind, fitted = ("orm", orm) if name.endswith("orm") else ("prm", prm)
        d = round(fitted.parameters["discrimination"], 3)
        return f"strategy={{name: best_of_n, samples: {samples}, verifier_pool: verifier, reads: {kind}, discrimination: {d}}}"
    return f"strategy={{name: majority_vote, samples: {samples}}}"


def _changes(name: str, samples: int) -> tuple[str, ...]:
    if samples == 1:
        return ()
    users = f"workload.arrivals.in_flight={max(1, SEQUENCES // samples)}"
    return (_strategy(name, samples), users)


def cases() -> tuple[Case, ...]:
    """Every row of both tables that is run."""
    said = {key: row for key, row in claims()["verification_math500"].items() if key != "section"}
    rows = [Case(f"verification/{key}", SCENARIO, _changes(key, row["samples"])) for key, row in said.items()]
    votes = []
    for samples in RUN_VOTES:
        changes = [f"strategy.samples={samples}", f"workload.arrivals.in_flight={max(1, SEQUENCES // samples)}"]
        if samples >= 16:
            changes.append("measure.queries=600")
        votes.append(Case(f"vote/{samples}", VOTE, tuple(changes)))
    return (*rows, *votes)


def table(ran: Ran) -> Table:
    """Rows of 1 and 16 are fitted, those of 64 predicted; runs stand beside the closed form."""
    said = {key: row for key, row in claims()["verification_math500"].items() if key != "section"}
    difficulty, orm, prm = fits()
    spread = difficulty.parameters["concentration"]
    mean = said["single"]["accuracy"]
    made = {
        "single": mean,
        "majority_16": majority(16, mean, spread, WRONG),
        "best_of_16_orm": best_of(16, mean, spread, orm.parameters["discrimination"]),
        "best_of_16_prm": best_of(16, mean, spread, prm.parameters["discrimination"]),
        "majority_64": majority(64, mean, spread, WRONG),
        "best_of_64_prm": best_of(64, mean, spread, prm.parameters["discrimination"]),
    }
    published = {
        "majority_16": ((0.002, 0.095), "PRM over majority in published runs: Qwen2.5-Math at N = 8, RLHFlow at 1,024"),
    }
    others = [fits(wrong) for wrong in OTHERS]
    band64 = [majority(64, mean, f[0].parameters["concentration"], w) for f, w in zip(others, OTHERS, strict=True)]
    band_prm = [best_of(64, mean, f[0].parameters["concentration"], f[2].parameters["discrimination"]) for f in others]
    why = {
        name: f"predicted from N up to 16; with 1 to 12 alternatives {as_share(min(band))} to {as_share(max(band))}"
        for name, band in (("majority_64", band64), ("best_of_64_prm", band_prm))
    }
    rows: list[Row] = []
    for key, claim in said.items():
        predicted = claim["samples"] == 64
        rows.append(
            Row(f"{key.replace('_', ' ')}: accuracy, closed form", "share", claim["accuracy"], ours=made[key],
                basis="predicted" if predicted else "fitted",
                verdict=judge(claim["accuracy"], made[key], unit="share") if predicted else "fitted",
                why=why.get(key, ""))
        )  # fmt: skip
    for key, claim in said.items():
        value, low, high = ran.share(f"verification/{key}")
        rows.append(
            Row(f"{key.replace('_', ' ')}: accuracy, run", "share", claim["accuracy"], ours=value, low=low, high=high,
                basis="simulated", verdict=judge(claim["accuracy"], value, low, high, "share"))
        )  # fmt: skip
        tokens = ran.figure(f"verification/{key}", "tokens")
        if claim["samples"] in (1, 16) and not key.endswith("orm"):
            rows.append(
                Row(f"{key.replace('_', ' ')}: tokens a query, run", "tokens", float(claim["tokens"]), ours=tokens.value,
                    low=tokens.bounds[0], high=tokens.bounds[1], basis="simulated",
                    verdict=judge(float(claim["tokens"]), tokens.value, *tokens.bounds),
                    why="generated tokens; what the verifier reads comes on top" if "best" in key else "")
            )  # fmt: skip
    gap = [made["best_of_16_prm"] - made["majority_16"], made["best_of_64_prm"] - made["majority_64"]]
    rows.append(
        Row(
            "PRM minus majority at 16",
            "points",
            0.06,
            *published["majority_16"],
            ours=gap[0],
            basis="fitted",
            verdict="fitted",
        )
    )
    rows.append(
        Row("PRM minus majority at 64", "points", 0.04, *published["majority_16"], ours=gap[1], basis="predicted",
            verdict=judge(0.04, gap[1], unit="points"))
    )  # fmt: skip
    miss = made["majority_64"] - said["majority_64"]["accuracy"]
    hit = made["best_of_64_prm"] - said["best_of_64_prm"]["accuracy"]
    return Table(
        "verification_math500",
        "What do votes and verifiers buy?",
        f"Fitted to its rows up to 16 samples, the majority of 64 is predicted {as_points(miss)} off the article's and "
        f"best-of-64 {as_points(hit)}.",
        tuple(rows),
        tuple(case.command for case in cases() if case.name.startswith("verification/")),
        (
            f"Fitted: concentration {spread:.3f} (single and majority of 16, {WRONG} wrong answers), discrimination "
            f"{orm.parameters['discrimination']:.3f} (ORM) and {prm.parameters['discrimination']:.3f} (PRM), each from its "
            "row of 16 samples. Predicted: both rows of 64.",
            "With equal p for all queries majority of 16 would give 97 to 98 %: the article's formula contradicts its table.",
        ),
        claims()["verification_math500"]["section"],
    )


def vote_table(ran: Ran) -> Table:
    """The exact binomial and runs at p = 0.6."""
    said = claims()["majority_vote_p06"]
    stated = {int(key): float(value) for key, value in said["stated"].items()}
    rows: list[Row] = []
    for samples in said["samples"]:
        exact = majority(samples, 0.6)
        claim = stated.get(samples)
        rows.append(
            Row(f"{samples} votes, exact", "share", claim, ours=exact, verdict=judge(claim, exact, unit="share"),
                why="99 % takes 133 votes" if samples == 64 else "")
        )  # fmt: skip
        if samples in RUN_VOTES:
            value, low, high = ran.share(f"vote/{samples}")
            rows.append(
                Row(f"{samples} votes, run", "share", exact, ours=value, low=low, high=high, basis="simulated",
                    verdict=judge(exact, value, low, high, "share"), why="beside it the exact figure, not the article's")
            )  # fmt: skip
    return Table(
        "majority_vote_p06",
        "How far does a vote carry at p = 0.6?",
        f"5 votes give {as_share(majority(5, 0.6))} as stated; 64 give {as_share(majority(64, 0.6))}, not 99 %, which takes 133.",
        tuple(rows),
        tuple(case.command for case in cases() if case.name.startswith("vote/")),
        ("Two answers, ties by a fair coin, every query alike: the formula's own assumptions.",),
        said["section"],
    )
