"""One documented Parquet schema per artefact table; units stand in the column names.

A table is named ``stage/table``. The version is written into the file's metadata and raised when
the meaning of a column changes.
"""

from __future__ import annotations

import pyarrow as pa

VERSION = 1

_f = pa.float64()
_i = pa.int64()
_s = pa.string()
_b = pa.bool_()


def _schema(*fields: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema(list(fields), metadata={"lensllm.schema_version": str(VERSION)})


_HELD_OUT_LOSS = (
    ("nats_per_token", _f),  # mean test loss over target tokens
    ("bits_per_byte", _f),  # total test nats / ln 2 / UTF-8 bytes of the target text
)

TABLES: dict[str, pa.Schema] = {
    # --- data ------------------------------------------------------------------------------
    "dataset/examples": _schema(
        ("prompt", _s),
        ("completion", _s),
        ("split", _s),  # train | test | empty: to be drawn
    ),
    "pretext/texts": _schema(
        ("kind", _s),  # docs | reference | prose | code
        ("text", _s),
    ),
    "sample/roles": _schema(
        ("row", _i),  # index into dataset/examples
        ("role", _s),  # train | validation | test
        ("rank", _i),  # place in the seeded permutation of its role; subset D = train ranks < D
    ),
    "drift/sizes": _schema(
        ("size", _i),  # D; the last row is the full training set
        ("mean_target_bytes", _f),
        ("median_target_bytes", _f),
        ("target_length_ks", _f),  # Kolmogorov–Smirnov distance of target lengths to the full set
        ("vocabulary_js_bits", _f),  # Jensen–Shannon divergence of target words to the full set
        ("vocabulary_coverage", _f),  # share of the full set's word occurrences that D has seen
    ),
    "tokens/examples": _schema(
        ("row", _i),  # index into dataset/examples
        ("prompt_ids", pa.list_(pa.int32())),
        ("completion_ids", pa.list_(pa.int32())),  # ends with the end-of-text token
        ("target_bytes", _i),  # UTF-8 bytes of the completion kept
        ("truncated", _b),
    ),
    # --- models ----------------------------------------------------------------------------
    "pretrain/curve": _schema(("step", _i), ("tokens", _i), ("nats_per_token", _f)),
    "finetune/cell": _schema(
        ("candidate", _s),
        ("size", _i),  # D, training examples; 0 is the pretrained model
        ("seed", _i),
        *_HELD_OUT_LOSS,
        ("train_nats_per_token", _f),  # on the subset (at most 200 examples), at the best epoch
        ("validation_nats_per_token", _f),
        ("test_tokens", _i),
        ("test_bytes", _i),
        ("truncated_examples", _i),  # among subset, validation and test
        ("steps", _i),
        ("epochs", _i),
        ("best_epoch", _i),  # 0 when no epoch beats the pretrained model
        (
            "learning_rate_integral",
            _f,
        ),  # Σ up to the best step: gradient-flow time
        ("parameters", _i),
        ("train_flops", _f),
        ("evaluation_flops", _f),
        ("seconds", _f),
        ("peak_memory_bytes", _i),
        ("precision", _s),
        ("versions", _s),  # JSON: python, lensllm and the libraries that compute
    ),
    "finetune/epochs": _schema(
        ("epoch", _i),
        ("step", _i),
        ("train_nats_per_token", _f),
        ("validation_nats_per_token", _f),
        ("learning_rate_integral", _f),
    ),
    # --- kernel and curvature ----------------------------------------------------------------
    "kernel/spectrum": _schema(
        ("index", _i),
        ("eigenvalue", _f),  # λ_k of K/n, descending
        ("projection_squared", _f),  # (u_kᵀ ρ)²; their sum is F(0)
    ),
    "kernel/matrix": _schema(("row", _i), ("residual_norm", _f), ("kernel", pa.list_(_f))),
    "kernel/summary": _schema(
        ("candidate", _s),
        ("probes", _i),
        ("parameters", _i),
        ("flops", _f),
        ("method", _s),  # exact or sketch
        ("passes", _s),  # batched or single
        ("reason", _s),  # for this method and these passes
        ("relative_error", _f),  # expected of K in the Frobenius norm; 0 for exact
        ("seconds", _f),
        ("peak_memory_bytes", _i),
    ),
    "overlap/summary": _schema(  # of fine-tuning examples with text like the pretraining data
        ("candidate", _s),
        ("probes", _i),  # of each set
        ("window_tokens", _i),  # of a piece of that text
        ("alignment", _f),  # of the centred gradients, 0 to 1; NaN: too few probes to tell
        ("alignment_standard_error", _f),  # by the choice of probes
        ("mean_gradient_cosine", _f),  # −1 to 1; NaN: a mean gradient cannot be told from zero
        ("mean_gradient_cosine_standard_error", _f),
        ("method", _s),  # of the kernel behind it: exact or sketch
        ("relative_error", _f),  # expected of that kernel in the Frobenius norm; 0 for exact
        ("flops", _f),
        ("seconds", _f),
    ),
    "heavy_tails/summary": _schema(
        ("candidate", _s),
        ("pl_alpha", _f),  # mean power-law exponent of the weight spectra
        ("e_tpl_lambda", _f),  # mean decay rate of their truncated power law
        ("layers", _i),  # weight matrices fitted
        ("seconds", _f),
    ),
    "curvature/layers": _schema(
        ("layer", _s),
        ("parameters", _i),
        ("distance", _f),  # ‖v‖, v = fine-tuned − pretrained weights
        ("vhv_positive", _f),  # vᵀH⁺v of the mean training loss
        ("vhv_negative", _f),  # vᵀH⁻v, non-negative
        ("vhv_error", _f),  # neither of the two is further than this from its value
        ("vhv_positive_max", _f),  # largest vᵀH⁺v over single examples: h_i of the bound
        ("trace", _f),
        ("trace_stderr", _f),
        ("largest_eigenvalue", _f),
    ),
    "curvature/bound": _schema(
        ("candidate", _s),
        ("size", _i),
        ("seed", _i),
        ("loss_bound", _f),  # C: the largest per-example loss seen, nats per token
        ("epsilon", _f),
        ("train_term", _f),  # (1 + ε) training loss
        ("curvature_term", _f),  # (1 + ε)/√n Σ √(C h_i)
        ("bound", _f),  # their sum; the O(n^(−3/4)) remainder is not included
        ("train_nats_per_token", _f),
        ("test_nats_per_token", _f),
        ("gap", _f),  # test − train
        ("examples", _i),  # training examples the curvature was averaged over
        ("flops", _f),
        ("seconds", _f),
    ),
    # --- curves, laws, ranking ---------------------------------------------------------------
    "curve/cells": _schema(  # the deterministic columns of every finished cell
        ("candidate", _s),
        ("family", _s),  # architecture, or what a table calls it; empty where unknown
        ("tokenizer", _s),  # equal where the tokenizer is; empty where unknown
        ("size", _i),
        ("seed", _i),
        *_HELD_OUT_LOSS,
        ("train_nats_per_token", _f),
        ("validation_nats_per_token", _f),
        ("learning_rate_integral", _f),
        ("parameters", _i),
        ("train_flops", _f),
        ("evaluation_flops", _f),
    ),
    "sweep/decisions": _schema(  # after each round of a sweep with a policy, those still in it
        ("budget", _i),  # largest D of the round
        ("candidate", _s),
        ("predicted", _f),
        ("p_best", _f),
        ("expected_regret", _f),
        ("dropped", _s),  # why it gets no larger subset; empty: it stays
        ("stop", _s),  # why nobody does; empty: the sweep goes on
    ),
    "simulation/cost": _schema(  # over all candidates
        ("spent_examples", _f),  # trained on, every cell counted
        ("full_examples", _f),  # of every candidate on the target
    ),
    "losses/notes": _schema(("kind", _s), ("text", _s)),  # metric | citation | note
    "checks/findings": _schema(
        ("code", _s),  # LENS1xx
        ("title", _s),
        ("candidate", _s),  # empty: all
        ("message", _s),
    ),
    "law/fits": _schema(
        ("candidate", _s),
        ("law", _s),  # vanilla | rectified | lensllm | lensllm_phase | lensllm_pooled
        ("B", _f),
        ("beta", _f),
        ("E", _f),
        ("offset", _f),  # D_l of the rectified law, F(Θ,t) of LensLLM, 0 of the vanilla law
        ("t", _f),  # gradient-flow time of LensLLM's F; NaN for the other laws
        ("scale", _f),  # s of F = s φ(t); NaN for the other laws
        ("transition_size", _f),  # D* = offset^(1/β)
        ("rmse_log", _f),  # root mean squared residual in log loss
        ("B_stderr", _f),
        ("beta_stderr", _f),
        ("E_stderr", _f),
        ("offset_stderr", _f),
        ("sizes", _i),  # points fitted
    ),
    "ranking/predictions": _schema(
        ("budget", _i),  # largest D known to the predictor
        ("predictor", _s),
        ("candidate", _s),
        ("rank", _i),  # by predicted loss
        ("predicted", _f),  # loss at the target, in the pipeline's metric
        ("low", _f),  # 80 % interval
        ("high", _f),
        ("cautious", _f),  # predicted + half a sd; the choice is the lowest; NaN if dropped
        ("p_best", _f),
        ("expected_regret", _f),  # of choosing the candidate, in the unit of the losses
        ("measured", _f),  # the truth, NaN when the target was not measured
        ("measured_rank", _i),  # 0 when not measured
    ),
    "ranking/scores": _schema(
        ("budget", _i),
        ("predictor", _s),
        ("pearson", _f),
        ("spearman", _f),
        ("kendall", _f),
        ("rel_acc", _f),
        ("regret", _f),  # loss of the chosen minus loss of the best
        ("rmse_log", _f),
        ("coverage_80", _f),
        ("p_best_log_score", _f),  # −ln P(best) of the true best; uniform scores ln M
    ),
    "ranking/comparison": _schema(  # bootstrap over candidates and seeds, at the largest budget
        ("predictor", _s),
        ("score", _s),
        ("value", _f),
        ("low", _f),  # 95 % interval
        ("high", _f),
        ("difference", _f),  # to the pipeline's predictor, paired
        ("difference_low", _f),
        ("difference_high", _f),
    ),
    "ranking/weights": _schema(  # what a mixture is made of
        ("budget", _i),
        ("predictor", _s),
        ("part", _s),
        ("weight", _f),
    ),
    "ranking/skipped": _schema(
        ("budget", _i),
        ("predictor", _s),
        ("reason", _s),
    ),
    "ranking/cost": _schema(
        ("candidate", _s),
        ("spent_flops", _f),  # cells up to the budget, kernel and curvature
        ("full_flops", _f),  # fine-tuning on the target size, one seed
    ),
}


def schema(table: str) -> pa.Schema:
    """The schema of ``stage/table``."""
    return TABLES[table]
