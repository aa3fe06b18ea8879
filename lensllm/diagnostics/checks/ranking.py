"""LENS101 to LENS110, but for the two that walk along a curve: how far a ranking is to be trusted.

Numbers that a limit rests on are from the tables of Lin et al. (2024), 30 candidates at up to 15
sizes; ``python -m bench checks`` prints them.
"""

from __future__ import annotations

import numpy as np

from lensllm.diagnostics.checks.check import Issue, RankingEvidence, by_candidate, check
from lensllm.predictors.hrb import LARGEST, SMALLEST

# Three points show a line and whether it bends. Where fewer are past D*, the law's own errors in
# log loss are 1.5 (FLAN) and 1.6 (Gigaword) times those at the same budget where more are; of hrb
# 1.4 times and no larger. Budgets 3,200 to 204,800.
NEEDED_SIZES = 3
# The candidates' own errors of hrb, as standard deviations of the log loss, reach the standard
# deviation of the true losses (.075) beyond 5 doublings on FLAN: .065 at 5, .081 at 6. On Gigaword
# they do so (.104) beyond 8.
MOST_DOUBLINGS = 5
# Moved by no more than this factor, the prior changes predictions less than seeds do.
PRIOR_FACTOR = 4.0
_MOST_NAMED = 3  # missing sizes


@check(
    "LENS101",
    "Too few sizes after the transition",
    tip="raise the budget, or trust hrb here before a law that is fitted to each curve alone",
    passed=f"Every candidate has {NEEDED_SIZES} sizes or more in the power phase",
    not_applicable="no rectified law falls",
)
def too_few_sizes(evidence: RankingEvidence) -> list[Issue] | None:
    """Candidates with fewer than 3 sizes measured at or after D* of their rectified law."""
    curves, fits = evidence.curves, evidence.fits_of("rectified")
    measured = dict(zip(curves.candidates, np.isfinite(curves.mean_losses), strict=True))
    details = {}
    for fit in fits:
        sizes, start = curves.sizes[measured[fit["candidate"]]], fit["transition_size"]
        past = int(np.sum(sizes >= start))
        if past < NEEDED_SIZES:
            where = f"{start:,.0f}" if start <= evidence.target else "beyond the target"
            details[fit["candidate"]] = f"{past} of {len(sizes)}, D* {where}"
    claim = f"Fewer than {NEEDED_SIZES} sizes lie in the power phase, at or after D*"
    return by_candidate(claim, details) if fits else None


@check(
    "LENS102",
    "The target is far away",
    tip="raise the budget, or fine-tune the first few at a larger size before you choose",
    passed=f"The target is at most {MOST_DOUBLINGS} doublings beyond the largest size measured",
    not_applicable="no size was measured",
)
def far_target(evidence: RankingEvidence) -> list[Issue] | None:
    """Fires if the target is more than 5 doublings beyond the largest size measured."""
    curves = evidence.curves
    measured = curves.sizes[np.isfinite(curves.mean_losses).any(0)]
    if len(measured) == 0:
        return None
    doublings = np.log2(evidence.target / measured[-1])
    if doublings <= MOST_DOUBLINGS:
        return []
    return [
        Issue(
            f"The target D = {evidence.target:,.0f} is {doublings:.1f} doublings beyond "
            f"D = {measured[-1]:,.0f}, the largest size measured"
        )
    ]


@check(
    "LENS103",
    "The ranking is not resolved",
    tip="raise the budget or add seeds, and go by P(best), not by the order alone",
    passed="The predictions lie further apart than their intervals are wide",
    not_applicable="fewer than two candidates have a prediction with an interval",
)
def unresolved(evidence: RankingEvidence) -> list[Issue] | None:
    """Fires if the median interval is wider than the range of the predictions, in log loss."""
    rows = evidence.predictions[["predicted", "low", "high"]].to_numpy(dtype=float)
    predicted, low, high = np.log(rows[np.isfinite(rows).all(1)]).T
    if len(predicted) < 2:
        return None
    width, extent = np.median(high - low), np.ptp(predicted)
    if width <= extent:
        return []
    within, wide = (f"{100 * np.expm1(log_ratio):.1f} %" for log_ratio in (extent, width))
    return [
        Issue(
            f"The predictions lie within {within} of each other and the median 80 % "
            f"interval spans {wide}, so the ranking is not resolved"
        )
    ]


@check(
    "LENS106",
    "F at its bound",
    tip="compare with the rectified law, whose offset is free",
    passed="Every LensLLM law has its offset inside F's range",
    not_applicable="no LensLLM law with a fitted time falls",
)
def kernel_at_its_bound(evidence: RankingEvidence) -> list[Issue] | None:
    """Candidates whose fitted t is 0, where F = F(0), or infinite, where F = F(∞)."""
    fits, details = evidence.fits_of("lensllm"), {}
    for fit in fits:
        if fit["t"] == 0:
            details[fit["candidate"]] = "t = 0, F = F(0)"
        elif np.isposinf(fit["t"]):
            details[fit["candidate"]] = "t = ∞, F = F(∞)"
    claim = "The LensLLM law is fitted with F at its bound, where the kernel's decay says nothing"
    return by_candidate(claim, details) if fits else None


@check(
    "LENS107",
    "Losses per token of different tokenizers",
    tip="rank by bits per byte, or only among candidates that share a tokenizer",
    passed="All candidates share one tokenizer",
    not_applicable="losses are per byte, or there is one candidate",
)
def different_tokenizers(evidence: RankingEvidence) -> list[Issue] | None:
    """Fires if losses per token are ranked over several tokenizers, or over unknown ones."""
    candidates = evidence.curves.candidates
    if evidence.metric != "nats_per_token" or len(candidates) < 2:
        return None
    tokenizers = {(evidence.tokenizers or {}).get(name, "") for name in candidates}
    known = len(tokenizers - {""})
    if known > 1:
        reason = f"the {len(candidates)} candidates have {known} tokenizers"
    elif "" in tokenizers:
        reason = "whether these candidates do is not known"
    else:
        return []
    claim = "Losses per token compare only candidates that share a tokenizer"
    return [Issue(f"{claim}, and {reason}")]


@check(
    "LENS109",
    "Sizes outside the range of the priors",
    tip="compare with ats, which has no priors",
    passed="The sizes and the target are in the range that the priors of hrb were set on",
    not_applicable="there are no sizes",
)
def sizes_outside_priors(evidence: RankingEvidence) -> list[Issue] | None:
    """Fires if hrb shifts its prior of the transition far along with the sizes."""
    if not len(evidence.curves.sizes):
        return None
    smallest = evidence.curves.sizes.min()
    if smallest >= SMALLEST / PRIOR_FACTOR and evidence.target <= LARGEST * PRIOR_FACTOR:
        return []
    return [
        Issue(
            f"Sizes from {smallest:,.0f} to {evidence.target:,.0f} are not within "
            f"{SMALLEST:,.0f}–{LARGEST:,.0f}, for which the priors of hrb were set, so they are "
            "rescaled"
        )
    ]


@check(
    "LENS110",
    "Missing sizes",
    tip="run its missing cells, or read its prediction as made from less",
    passed="Every candidate was measured at all sizes that it was meant to be",
    not_applicable="there is one candidate",
)
def missing_sizes(evidence: RankingEvidence) -> list[Issue] | None:
    """Candidates that lack a size which another candidate has, and not by a policy's decision."""
    curves = evidence.curves
    if len(curves.candidates) < 2:
        return None
    measured = np.isfinite(curves.mean_losses)
    wanted = measured.any(0)
    details = {}
    for name, row in zip(curves.candidates, measured, strict=True):
        missing = curves.sizes[wanted & ~row]
        if len(missing) and name not in evidence.dropped:
            named = ", ".join(f"{size:,.0f}" for size in missing[:_MOST_NAMED])
            more = " …" if len(missing) > _MOST_NAMED else ""
            details[name] = f"{row.sum()} of {wanted.sum()}, without {named}{more}"
    return by_candidate("Sizes are missing", details)
