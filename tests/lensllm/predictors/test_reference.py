"""AtS, HRB and the blend on the published tables, by another implementation of the methods.

``reference_predictions.csv`` has the loss at 1,638,400 that it predicts for each of 30 candidates
from each of seven budgets, to five decimals.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lensllm.curves import tables
from lensllm.curves.curve import curves_from_cells
from lensllm.predictors import PREDICTORS, AtS, Hrb

TARGETS = np.array([1_638_400.0])
REFERENCE = pd.read_csv(Path(__file__).with_name("reference_predictions.csv"))


@pytest.mark.parametrize("budget", sorted(set(REFERENCE["budget"])))
@pytest.mark.parametrize("table", ["flan", "gigaword"])
def test_every_prediction(table, budget):
    source = tables.read(table)
    known = curves_from_cells(source.cells, "nats_per_token", budget)
    families = tuple(source.cells.groupby("candidate")["family"].first()[list(known.candidates)])
    known = replace(known, families=families)
    rows = REFERENCE[(REFERENCE["dataset"] == table) & (REFERENCE["budget"] == budget)]
    expected = rows.set_index("candidate").loc[list(known.candidates)]

    line, hierarchy = AtS().predict(known, TARGETS), Hrb().predict(known, TARGETS)
    shares = PREDICTORS["blend"].weigh(np.empty((0, 2, 30)), np.empty(0))

    assert len(expected) == 30
    np.testing.assert_allclose(line.loss[:, 0], expected["ats"], atol=2e-5)
    np.testing.assert_allclose(hierarchy.loss[:, 0], expected["hrb"], atol=5e-5)
    np.testing.assert_allclose(hierarchy.sd_log[:, 0], expected["hrb_sd_log"], atol=2e-5)
    blend = np.exp(shares @ np.log([line.loss[:, 0], hierarchy.loss[:, 0]]))
    np.testing.assert_allclose(blend, expected["blend"], atol=5e-5)
