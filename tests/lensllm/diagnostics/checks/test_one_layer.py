from dataclasses import replace

import pytest

from lensllm.diagnostics.checks.one_layer import find


def with_h(clean, value, layer="h.0", size=25_600):
    """h of one layer of ``a``; the three others have .3 each."""
    layers = clean.layers.copy()
    row = (layers["candidate"] == "a") & (layers["layer"] == layer) & (layers["size"] == size)
    layers.loc[row, "vhv_positive_max"] = value
    return replace(clean, layers=layers)


@pytest.mark.parametrize(("root", "fires"), [(2.9, False), (3.1, True)])
def test_more_than_all_the_others_together(clean, root, fires):
    """√h against three times √.3."""
    assert fires == bool(find(with_h(clean, 0.3 * root**2)))


def test_layer_and_share_are_named(clean):
    (found,) = find(with_h(clean, 0.3 * 9**2))

    assert "a (h.0, 75 % of 4 layers)" in found.message


def test_smaller_sizes_do_not_count(clean):
    assert find(with_h(clean, 300.0, size=1600)) == []


def test_of_three_layers_one_may_be_the_largest(clean):
    layers = with_h(clean, 300.0).layers

    assert find(replace(clean, layers=layers[layers["layer"] != "ln_f"])) == []


def test_a_model_that_did_not_move_has_no_shares(clean):
    assert find(replace(clean, layers=clean.layers.assign(vhv_positive_max=0.0))) == []
