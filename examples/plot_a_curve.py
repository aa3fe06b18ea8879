"""Fit the rectified scaling law to one learning curve and draw both.

python examples/plot_a_curve.py [curve.png]
"""

import sys

import numpy as np

import lensllm

sizes = np.array([200, 400, 800, 1600, 3200, 6400])
losses = np.array([2.61, 2.54, 2.43, 2.30, 2.18, 2.07])  # nats per token of the test set
curves = lensllm.Curves(("gpt2",), sizes, losses[None, :, None])  # candidates × sizes × seeds

fit = lensllm.fit_law(curves, "rectified")  # L(D) = B / (offset + D^β) + E
print(f"β = {fit.beta[0]:.3f} ± {fit.beta_stderr[0]:.3f}, E = {fit.E[0]:.3f}")
print(f"loss at 51,200 examples: {fit.predict(51_200)[0, 0]:.3f}")

axes = lensllm.plot_curves(curves, fit, target=51_200)
axes.figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "curve.png")
