"""The rooms for tables of losses need numpy, scipy and pandas alone."""

import subprocess
import sys

CODE = """
import importlib, pkgutil, sys

BLOCKED = {"torch", "prefect", "mlflow", "pyarrow", "pydantic", "transformers", "matplotlib", "yaml"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Refuse())
for room in ("spectra", "laws", "predictors", "selection"):
    package = importlib.import_module(f"lensllm.{room}")
    for module in pkgutil.walk_packages(package.__path__, f"lensllm.{room}."):
        importlib.import_module(module.name)
importlib.import_module("lensllm.curves.curve")
"""


def test_curves_laws_predictors_and_selection_import_without_anything_heavy():
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
