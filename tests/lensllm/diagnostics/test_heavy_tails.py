import logging
import sys
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from lensllm.core.errors import ConfigError, ModelError
from lensllm.diagnostics import heavy_tails
from lensllm.diagnostics.heavy_tails import HeavyTails

fitted = pytest.mark.skipif(
    find_spec("weightwatcher") is None or find_spec("powerlaw") is None,
    reason="the libraries of the extra heavy-tails are not installed",
)


def matrix(spectrum, rows, seed=0):
    """A layer whose weight W has WᵀW with these eigenvalues."""
    draw = np.random.default_rng(seed)
    size = len(spectrum)
    left, right = (np.linalg.qr(draw.standard_normal((n, size)))[0] for n in (rows, size))
    layer = nn.Linear(size, rows, bias=False, dtype=torch.float64)
    layer.weight.data = torch.from_numpy(left * np.sqrt(spectrum) @ right.T)
    return layer


def middles(size):
    """Evenly spread probabilities."""
    return (np.arange(size) + 0.5) / size


def pareto(exponent, size):
    """Quantiles of p(x) ∝ x^−exponent above 1."""
    return (1 - middles(size)) ** (-1 / (exponent - 1))


def truncated(exponent, decay, size):
    """Quantiles of p(x) ∝ x^−exponent e^(−decay x) above 1."""
    x = np.geomspace(1, 1 + 40 / decay, 200_000)
    mass = integrate.cumulative_trapezoid(x**-exponent * np.exp(-decay * x), x, initial=0)
    return np.interp(middles(size), mass / mass[-1], x)


@fitted
@pytest.mark.parametrize("exponent", [2.0, 3.0, 5.0])
def test_the_exponent_of_a_pareto_spectrum(exponent):
    found = heavy_tails.measure(matrix(pareto(exponent, 300), rows=400))

    assert exponent == pytest.approx(found.pl_alpha, rel=0.05)
    assert found.layers == 1


@fitted
@pytest.mark.parametrize(("exponent", "decay"), [(1.5, 0.1), (2.0, 0.5)])
def test_the_decay_of_a_truncated_spectrum(exponent, decay):
    found = heavy_tails.measure(matrix(truncated(exponent, decay, 300), rows=300))

    assert decay == pytest.approx(found.e_tpl_lambda, rel=0.2)


@fitted
def test_a_random_matrix_has_no_heavy_tail():
    torch.manual_seed(0)
    noise = heavy_tails.measure(nn.Linear(300, 300, bias=False))
    heavy = heavy_tails.measure(matrix(pareto(3.0, 300), rows=300))

    assert noise.pl_alpha > 2 * heavy.pl_alpha
    assert noise.e_tpl_lambda > 10 * heavy.e_tpl_lambda


@fitted
def test_the_scale_of_the_weights_is_in_lambda_alone():
    layer = matrix(truncated(1.5, 0.1, 100), rows=100)
    before = heavy_tails.measure(layer)
    layer.weight.data *= 2
    after = heavy_tails.measure(layer)

    assert before.pl_alpha == pytest.approx(after.pl_alpha)
    assert before.e_tpl_lambda / 4 == pytest.approx(after.e_tpl_lambda, rel=1e-3)


@fitted
def test_means_over_the_matrices_large_enough():
    layers = [matrix(pareto(2.0, 60), rows=60), matrix(pareto(4.0, 50), rows=70, seed=1)]
    apart = [heavy_tails.measure(layer) for layer in layers]
    experts = nn.Module()
    experts.weight = nn.Parameter(torch.stack([layers[0].weight] * 3))

    found = heavy_tails.measure(nn.Sequential(*layers, nn.Linear(19, 300), nn.LayerNorm(300)))

    assert found == HeavyTails(
        pytest.approx(np.mean([each.pl_alpha for each in apart])),
        pytest.approx(np.mean([each.e_tpl_lambda for each in apart])),
        layers=2,
    )
    assert heavy_tails.measure(experts).layers == 3


@fitted
def test_a_language_model_without_its_embeddings_twice_the_same():
    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=64, n_positions=40, n_embd=24, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(shape)

    found = heavy_tails.measure(model)

    assert found.layers == 4  # attention in and out, feed-forward in and out
    assert found == heavy_tails.measure(model)


@fitted
@pytest.mark.parametrize("too_small", [nn.Linear(8, 8), nn.Embedding(50, 40)])
def test_nothing_to_fit(too_small):
    assert_not_fitted(heavy_tails.measure(too_small))


@fitted
def test_a_spectrum_without_spread_is_not_fitted():
    layer = nn.Linear(30, 30)
    nn.init.eye_(layer.weight)

    assert_not_fitted(heavy_tails.measure(layer))


def assert_not_fitted(found):
    assert np.isnan([found.pl_alpha, found.e_tpl_lambda]).all()
    assert found.layers == 0


@fitted
def test_it_leaves_logging_and_warnings_as_they_are(capfd, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("weightwatcher")]:
        monkeypatch.delitem(sys.modules, name)  # so that it is imported anew
    root = logging.getLogger()
    before = (root.level, list(root.handlers), list(warnings.filters))

    heavy_tails.measure(matrix(pareto(2.0, 22), rows=22))

    assert before == (root.level, root.handlers, warnings.filters)
    assert "".join(capfd.readouterr()) == ""


@fitted
def test_weights_that_are_not_finite():
    layer = nn.Linear(30, 30)
    layer.weight.data[0, 0] = torch.nan

    with pytest.raises(ModelError, match="weights weight are not finite"):
        heavy_tails.measure(layer)


@pytest.mark.parametrize(
    ("installed", "reason"),
    [
        ({"powerlaw": "1.5"}, "weightwatcher is not installed"),
        ({"weightwatcher": "0.7.7"}, "powerlaw is not installed"),
        ({"weightwatcher": "0.7.7", "powerlaw": "2.0.0"}, "powerlaw 2.0.0 fits other exponents"),
    ],
)
def test_without_the_extra_it_says_how_to_install_it(tmp_path, monkeypatch, installed, reason):
    for name, number in installed.items():
        folder = tmp_path / f"{name}-{number}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n"
        )
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # where installed packages are looked for

    with pytest.raises(ConfigError, match=rf"{reason}.*pip install 'lensllm\[heavy-tails\]'"):
        heavy_tails.measure(nn.Linear(2, 2))
