"""Rank the models of a table of losses, and compare the ranking with the measured truth.

python examples/rank_a_table.py
"""

import lensllm

TARGET = 1_638_400

# A published table; the path of a CSV or Parquet file or a pandas DataFrame will do as well.
curves = lensllm.read_curves("gigaword")

# The sizes that a sweep of at most 25,600 training examples would have measured.
known = curves.until(25_600)
ranking = lensllm.rank_curves(known, TARGET)
columns = ["candidate", "predicted", "low", "high", "p_best"]
print(ranking[columns].head().round(3).to_string(index=False))

scores = lensllm.score_ranking(ranking, curves.losses_at(TARGET))
print(f"RelAcc {scores['rel_acc']:.3f}, Pearson {scores['pearson']:.3f}")
