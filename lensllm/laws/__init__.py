"""Parametric learning curves, one law per file."""
