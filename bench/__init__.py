"""Benchmarks: side by side in one run, medians and ratios, no pass or fail.

``make bench`` runs all; ``python -m bench finetune`` runs one. Machines are noisy: quote ratios.
"""
