"""One documented Parquet schema per artefact table; units stand in the column names.

A table is named ``stage/table``. The version is written into the file's metadata and raised when
columns or their meaning change: artefacts of before are then not held against the new schema.
"""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

VERSION = 2

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

_OUTCOMES = _schema(  # one row per check that was asked
    ("code", _s),
    ("title", _s),
    ("outcome", _s),  # issue | passed | not applicable
    ("text", _s),  # what to do, what was passed, or why the check does not apply
)

TABLES: dict[str, pa.Schema] = {
    # --- data ------------------------------------------------------------------------------
    "dataset/examples": _schema(
        ("prompt", _s),
        ("completion", _s),  # the target: text, or a chat's last answer
        ("messages", _s),  # JSON: a chat's turns before that answer; empty of other forms
        ("stratum", _s),  # value of the column data.stratify; empty without
        ("split", _s),  # train | validation | test | empty: to be drawn
        ("file", _s),  # by its name when it was read; empty of builtin data
        ("number", _i),  # line of a text file, row of a table, from 1
    ),
    "dataset/summary": _schema(  # of each set that was read
        ("split", _s),
        ("form", _s),  # completion | text | messages
        ("rows", _i),  # read
        ("distinct", _i),  # examples; estimated where not all are kept and some are repeated
        ("kept", _i),
        ("unfit", _i),  # rows that are no example, left out
        ("unfit_place", _s),  # of the first
        ("unfit_reason", _s),
        ("shared", _i),  # rows that are in a held-out set as well, left out
        ("shared_place", _s),
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
        ("truncated", _b),  # prompt or completion
        ("target_truncated", _b),
    ),
    "tokens/summary": _schema(
        ("rendering", _s),  # completion | text | chat template | plain chat
        ("beginning", _s),  # tokens that the tokenizer puts before every text
        ("end_token", _s),
        ("pad_token", _s),  # empty: it has none
    ),
    "inspection/findings": _schema(  # before training
        ("code", _s),  # LENS3xx
        ("title", _s),
        ("candidate", _s),  # empty: all
        ("message", _s),
        ("place", _s),  # of an example to look at; empty where there is none
        ("excerpt", _s),
    ),
    "inspection/outcomes": _OUTCOMES,
    # --- models ----------------------------------------------------------------------------
    "download/files": _schema(("file", _s), ("bytes", _i)),
    "pretrain/curve": _schema(("step", _i), ("tokens", _i), ("nats_per_token", _f)),
    "finetune/cell": _schema(
        ("candidate", _s),
        ("size", _i),  # D, training examples; 0 is the pretrained model
        ("repeat", _i),
        *_HELD_OUT_LOSS,
        ("train_nats_per_token", _f),  # on the subset (at most 200 examples), at the best epoch
        ("validation_nats_per_token", _f),
        ("test_example_nats_per_token", _f),  # mean over examples of each one's own mean
        ("train_example_nats_per_token", _f),  # likewise, of those behind train_nats_per_token
        ("largest_example_nats_per_token", _f),  # of both
        ("test_tokens", _i),
        ("test_bytes", _i),
        ("truncated_examples", _i),  # among subset, validation and test
        ("steps", _i),
        ("epochs", _i),
        ("batch_size", _i),  # examples of an optimiser step
        ("learning_rate", _f),  # peak of the schedule
        ("best_epoch", _i),  # 0 when no epoch beats the pretrained model
        ("learning_rate_integral", _f),  # Σ up to the best step: gradient-flow time
        ("parameters", _i),
        ("trainable_parameters", _i),  # all of them, or the adapters'
        ("train_flops", _f),
        ("trunk_examples", _i),  # of the trunk before the branch, shared by all sizes; 0 without
        ("evaluated_examples", _i),
        ("trunk_flops", _f),  # of the trunk before the branch
        ("evaluation_flops", _f),
        ("seconds", _f),  # of all attempts, where earlier ones were interrupted
        ("peak_memory_bytes", _i),
        ("micro_batch", _i),  # examples at a time of an optimiser step, as memory allowed
        ("gradient_checkpointing", _b),  # whether activations were computed again, to save memory
        ("processes", _i),  # that the cell ran on
        ("precision", _s),  # of matrix products, and why
        ("attention", _s),  # its implementation, and why
        ("versions", _s),  # JSON: python, lensllm and the libraries that compute
    ),
    "finetune/epochs": _schema(
        ("epoch", _i),
        ("step", _i),
        ("train_nats_per_token", _f),
        ("validation_nats_per_token", _f),
        ("learning_rate_integral", _f),
    ),
    "probe/throughput": _schema(  # a few steps of the candidate on this machine
        ("candidate", _s),
        ("device", _s),
        ("precision", _s),
        ("parameters", _i),
        ("train_flops_per_example", _f),  # mean over all training examples, forward and backward
        ("evaluation_flops_per_example", _f),
        ("train_flops_per_second", _f),
        ("evaluation_flops_per_second", _f),
        ("steps", _i),  # timed, those of the warm-up not counted
        ("step_seconds", _f),  # median
        ("load_seconds", _f),  # of model and examples, once in every cell
        ("seconds", _f),  # of the probe itself
        ("peak_memory_bytes", _i),
    ),
    "rate/rates": _schema(  # of one candidate, where learning rates are chosen
        ("learning_rate", _f),
        ("size", _i),  # of the cells compared, the smallest
        ("validation_nats_per_token", _f),  # infinite where training diverged
        ("best_epoch", _i),
        ("seconds", _f),
        ("flops", _f),  # of training and evaluation
        ("chosen", _b),  # lowest validation loss
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
        ("vhv_max_error", _f),  # that example's is no further than this from it
        ("trace", _f),
        ("trace_stderr", _f),
        ("largest_eigenvalue", _f),  # a Ritz value: at most the largest eigenvalue
        ("eigenvalue_error", _f),  # some eigenvalue is no further than this from it
        ("lanczos_steps", _i),
    ),
    "curvature/density": _schema(  # of the whole Hessian; no rows but of a candidate's first cell
        ("eigenvalue", _f),  # node of a Gauss rule
        ("weight", _f),  # share of the eigenvalues it stands for
    ),
    "curvature/bound": _schema(
        ("candidate", _s),
        ("size", _i),
        ("repeat", _i),
        ("loss_bound", _f),  # C: the largest loss of a test or training example, nats per token
        ("uniform_nats_per_token", _f),  # loss of guessing: ln(vocabulary)
        ("epsilon", _f),
        ("train_term", _f),  # (1 + ε) training loss
        ("curvature_term", _f),  # (1 + ε)/√n Σ √(C h_i)
        ("bound", _f),  # their sum; the O(n^(−3/4)) remainder is not included
        ("train_nats_per_token", _f),  # mean over examples of each one's own mean, as all here
        ("test_nats_per_token", _f),
        ("gap", _f),  # test − train
        ("examples", _i),  # training examples among which the largest h was sought
        ("flops", _f),
        ("seconds", _f),
        ("peak_memory_bytes", _i),
    ),
    "crossing/candidates": _schema(  # across the sizes whose curvature is known
        ("candidate", _s),
        ("remainder", _s),  # literal: n^(−3/4) nats; fitted: its constant from the measured gaps
        ("C3", _f),  # curvature term = C₃ n^(−β₃)
        ("beta3", _f),
        ("log_C3_stderr", _f),
        ("beta3_stderr", _f),
        ("cells", _i),  # fitted
        ("crossing_size", _f),  # n* at which the term overtakes the remainder; 0: always above
        ("low", _f),  # 80 % interval
        ("high", _f),
        ("transition_size", _f),  # D* of the rectified law
        ("agrees", _b),  # both are below the budget, or both above
    ),
    "crossing/agreement": _schema(
        ("remainder", _s),
        ("candidates", _i),  # with a crossing and a transition
        ("same_phase", _f),  # share of them on which both agree whether the budget is past it
        ("doublings", _f),  # median |log₂ n*/D*|, both within [smallest size, target]
        ("within_interval", _f),  # share whose D* lies in the crossing's interval
    ),
    # --- curves, laws, ranking ---------------------------------------------------------------
    "curve/cells": _schema(  # the deterministic columns of every finished cell
        ("candidate", _s),
        ("family", _s),  # architecture, or what a table calls it; empty where unknown
        ("tokenizer", _s),  # equal where the tokenizer is; empty where unknown
        ("size", _i),
        ("repeat", _i),
        *_HELD_OUT_LOSS,
        ("train_nats_per_token", _f),
        ("validation_nats_per_token", _f),
        ("learning_rate_integral", _f),
        ("parameters", _i),
        ("train_flops", _f),
        ("trunk_flops", _f),  # of the trunk before the branch
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
        ("code", _s),  # LENS1xx, LENS2xx, LENS3xx
        ("title", _s),
        ("candidate", _s),  # empty: all
        ("message", _s),
    ),
    "checks/outcomes": _OUTCOMES,
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
    "prediction/answers": _schema(  # one predictor's, from each size that a ranking asks from
        ("curves", _s),  # all candidates | those racing | resample 0 …: of the repeats
        ("budget", _i),  # largest D known to the predictor
        ("candidate", _s),
        ("size", _i),  # each later D of the curves, then the target
        ("loss", _f),  # in the pipeline's metric
        ("sd_log", _f),  # of the log loss, NaN where the predictor states none
    ),
    "prediction/skipped": _schema(
        ("curves", _s),
        ("budget", _i),
        ("reason", _s),
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
    "report/measurements": _schema(  # tables that stages declare, a row per value, as text
        ("title", _s),
        ("row", _i),
        ("column", _s),
        ("value", _s),
    ),
    "report/forecast": _schema(  # what probes predicted of the cells, and what these took
        ("candidate", _s),
        ("cells", _i),
        ("predicted_seconds", _f),  # of all these cells together
        ("seconds", _f),
        ("predicted_flops", _f),
        ("flops", _f),
        ("predicted_peak_memory_bytes", _f),  # the probe's own peak
        ("peak_memory_bytes", _f),  # of the cell that took most
    ),
    # --- ablation: a pipeline at every point of a grid of settings ---------------------------
    "ablation/points": _schema(
        ("point", _i),  # 0: the pipeline as it stands, the reference
        ("settings", _s),  # JSON: the value of every key of the grid
        ("reference", _b),
        ("failed", _s),  # why the point has no ranking; empty: it has one
        ("predictor", _s),
        ("smallest", _i),  # D trained on
        ("budget", _i),  # largest D paid for
        ("target", _i),
        ("choice", _s),
        ("pearson", _f),  # PearCorr with the losses measured at this point
        ("rmse_log", _f),
        ("regret", _f),  # measured loss of the choice minus that of the best, at this point
        ("kendall", _f),  # of the ranking with the reference's
        ("truth_kendall", _f),  # of the measured losses with the reference's
        ("transition", _f),  # median D* of the rectified law, each within smallest D … target
        ("transition_seen", _i),  # candidates whose D* lies inside these ends
        ("ats_transition", _f),  # median smallest size that AtS accepts
        ("ats_seen", _i),  # candidates where AtS's walk stopped, and not at its first step
    ),
    "ablation/candidates": _schema(
        ("point", _i),
        ("candidate", _s),
        ("rank", _f),  # NaN without a prediction
        ("predicted", _f),
        ("p_best", _f),
        ("measured", _f),
        ("transition", _f),  # D* of the rectified law; inf where it never comes
        ("transition_side", _s),  # seen | before the smallest D | beyond the target | unknown
        ("ats_transition", _f),  # smallest size that AtS accepts
        ("ats_side", _s),  # seen | before the smallest D | beyond the γ-th largest | unknown
    ),
    "ablation/keys": _schema(  # how far things move where only that key does
        ("key", _s),
        ("reference", _s),  # JSON: the pipeline's own value
        ("values", _s),  # JSON: the others that gave a ranking
        ("points", _i),  # as many
        ("pearson_low", _f),  # of these points and the reference
        ("pearson_high", _f),
        ("kendall_low", _f),  # lowest correlation of a ranking with the reference's
        ("truth_kendall_low", _f),  # and of the measured losses
        ("choice_changes", _i),  # points with another choice
        ("regret_high", _f),  # largest regret of a choice
        ("transition_move_low", _f),  # largest |log2| move of D*, median over candidates, at least
        ("transition_move_high", _f),  # and at most: inf where ends hide it
        ("ats_move_low", _f),  # the same of AtS's transition
        ("ats_move_high", _f),
    ),
}

# Who writes a table that is named after another stage.
WRITTEN_BY = {
    "decision/decisions": "sweep/decisions",
    "simulation/decisions": "sweep/decisions",
    "simulation/cells": "curve/cells",
    "losses/cells": "curve/cells",
}


def schema(table: str) -> pa.Schema:
    """The schema of ``stage/table``."""
    return TABLES[table]


def empty(table: str) -> pd.DataFrame:
    """``stage/table`` without a row."""
    frame: pd.DataFrame = schema(table).empty_table().to_pandas()
    return frame
