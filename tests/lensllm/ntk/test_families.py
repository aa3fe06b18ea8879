"""The kernel of every family of architectures against gradients of one plain call at a time."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from numpy.typing import NDArray

from lensllm.models.batch import Example
from lensllm.ntk import Kernel, residual_kernel
from tests.lensllm import families
from tests.lensllm.conftest import plain_logits

# Every way to compute a kernel that has to be exact; each test runs with each of them.
METHODS = ("exact",)

# transformers takes norms, softmax and routers in float32 even where the weights are float64.
TOLERANCE = 1e-6

# Families with a weight that leaves no factors in a batched pass, so far.
SINGLE = (*families.SPARSE, "switch-two", "switch-experts", "t5", "mt5", "cohere", "mamba")
SINGLE += ("llama-fused",)

# What torch.func cannot map: routing and a padding check that depend on data, Bloom's own gelu.
UNMAPPED = (*families.SPARSE, "switch-two", "switch-experts", "bloom", "llama-fused")

Array = NDArray[np.float64]

# Its norms follow each layer: bfloat16 activations move its kernel by 27 % in plain calls, too.
CHAOTIC = ("gemma3",)


@dataclass(frozen=True)
class Reference:
    """A model, its probes, and what one plain call and one backward pass a probe say."""

    model: Any  # not to be changed
    probes: list[Example]
    gradients: dict[str, torch.Tensor]  # (n, weights) of every trainable weight
    norms: Array  # (n,) ρ

    def kernel(self, *names: str) -> Array:
        """K (n, n), over all weights or over those named."""
        rows = torch.cat([self.gradients[n] for n in names or self.gradients], dim=1).double()
        return (rows @ rows.T).numpy() / np.outer(self.norms, self.norms)


def _trainable(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _reference(model: Any, probes: list[Example]) -> Reference:
    weights, rows, norms = _trainable(model), [], []
    for probe, logits in zip(probes, plain_logits(model, probes), strict=True):
        loss = F.cross_entropy(logits.double(), torch.tensor(probe.completion))
        rows.append(torch.autograd.grad(loss, list(weights.values()), materialize_grads=True))
        chances = logits.detach().double().softmax(-1)
        residual = chances - torch.eye(families.VOCABULARY)[probe.completion]
        norms.append(float(residual.norm()) / len(probe.completion) ** 0.5)
    columns = zip(*rows, strict=True)
    gradients = [torch.stack(column).flatten(1) for column in columns]
    return Reference(model, probes, dict(zip(weights, gradients, strict=True)), np.array(norms))


def _kernel(model: Any, probes: Sequence[Example], method: str) -> Kernel:
    return residual_kernel(model, probes, method=method)


def _error(found: Array, expected: Array) -> float:
    """In the Frobenius norm, relative."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module", params=families.NAMES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def reference(family: str) -> Reference:
    return _reference(families.build(family), families.probes())


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def test_kernel_is_that_of_one_plain_call_a_probe(family, reference, method):
    kernel = _kernel(reference.model, reference.probes, method)
    assert _error(kernel.matrix, reference.kernel()) <= TOLERANCE
    np.testing.assert_allclose(kernel.residual_norms, reference.norms, rtol=TOLERANCE)
    # a batched pass that goes wrong is replaced by single ones, right but slow, and so not seen
    assert ("single" if family in SINGLE else "batched") == kernel.computation.passes


@pytest.mark.parametrize("family", ["gpt2", "opt", "bart"])
def test_float64_is_kept_throughout(family, method):
    reference = _reference(families.build(family), families.probes())
    kernel = _kernel(reference.model, reference.probes, method)
    assert _error(kernel.matrix, reference.kernel()) <= 1e-12
    np.testing.assert_allclose(kernel.residual_norms, reference.norms, rtol=1e-12)


def test_faint_weights_are_right_too(reference, method):
    """All else frozen: in the whole kernel a mistake in them would not be seen."""
    whole = np.trace(reference.kernel())
    shares = {n: np.trace(reference.kernel(n)) / whole for n in reference.gradients}
    felt = sorted((name for name in shares if shares[name] > 0), key=lambda name: shares[name])
    faint = felt[: max(1, len(felt) // 3)]
    model = copy.deepcopy(reference.model)
    for name, weight in _trainable(model).items():
        weight.requires_grad_(name in faint)
    kernel = _kernel(model, reference.probes, method)
    assert _error(kernel.matrix, reference.kernel(*faint)) <= 10 * TOLERANCE


def test_neither_order_nor_company_of_a_probe_matters(reference, method):
    chosen = [5, 2, 0, 2, 3]
    kernel = _kernel(reference.model, [reference.probes[i] for i in chosen], method)
    assert _error(kernel.matrix, reference.kernel()[np.ix_(chosen, chosen)]) <= TOLERANCE
    np.testing.assert_allclose(kernel.residual_norms, reference.norms[chosen], rtol=TOLERANCE)


@pytest.mark.parametrize("family", ["gpt2", "llama-low-rank", "bart-frozen-encoder", "switch-two"])
def test_the_model_is_left_as_it_was(family, method):
    model, probes = families.build(family), families.probes(3)
    _reference(model, probes)  # the first call makes Switch's routers float32
    before = {name: (w.requires_grad, w.clone()) for name, w in model.named_parameters()}
    _kernel(model, probes, method)
    for name, weight in model.named_parameters():
        assert before[name][0] == weight.requires_grad, name
        assert torch.equal(before[name][1], weight), name
        assert weight.grad is None, name


def test_bfloat16_models_lose_little(family, method):
    model = families.build(family, scale=0.15)
    expected = _reference(model, families.probes()).kernel()
    rounded = _reference(model.bfloat16(), families.probes())
    kernel = _kernel(model, rounded.probes, method)
    assert _error(kernel.matrix, rounded.kernel()) <= 0.01
    if family not in CHAOTIC:
        assert _error(kernel.matrix, expected) <= 0.05


def test_bfloat16_gradients_are_summed_in_float32(method):
    rounded = _reference(families.build("gpt2").bfloat16(), families.probes())
    rows = torch.cat(list(rounded.gradients.values()), dim=1)
    total = torch.zeros(len(rows), len(rows), dtype=torch.bfloat16)
    for block in rows.split(16, dim=1):
        total += block @ block.T
    careless = total.double().numpy() / np.outer(rounded.norms, rounded.norms)
    kernel = _kernel(rounded.model, rounded.probes, method)
    assert np.float64 == kernel.matrix.dtype
    assert 10 * _error(kernel.matrix, rounded.kernel()) < _error(careless, rounded.kernel())


@pytest.mark.parametrize("family", [n for n in families.NAMES if n not in UNMAPPED])
def test_kernel_is_that_of_mapped_gradients(family, method):
    """A second reference: ``torch.func`` differentiates all probes, of one length, at once."""
    model = families.build(family, attention="eager")
    model.config.pad_token_id = None  # GPT-2 would look for padding, which no map can
    prompts, completions = torch.randint(
        1, families.VOCABULARY, (2, 4, 5), generator=torch.Generator().manual_seed(0)
    )
    weights = {name: weight.detach() for name, weight in _trainable(model).items()}

    def loss(
        weights: dict[str, torch.Tensor], prompt: torch.Tensor, completion: torch.Tensor
    ) -> torch.Tensor:
        text = torch.cat([prompt, completion[:-1]])[None]
        inputs = {"input_ids": text}
        if model.config.is_encoder_decoder:
            start = torch.tensor([model.config.decoder_start_token_id])
            decoder = torch.cat([start, completion[:-1]])[None]
            inputs = {"input_ids": prompt[None], "decoder_input_ids": decoder}
        output = torch.func.functional_call(model, weights, (), inputs | {"use_cache": False})
        return F.cross_entropy(output.logits[0, -len(completion) :].double(), completion)

    mapped = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))
    gradients = mapped(weights, prompts, completions)
    rows = torch.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1).double()
    pairs = zip(prompts.tolist(), completions.tolist(), strict=True)
    kernel = _kernel(model, [Example(*pair) for pair in pairs], method)
    gram = kernel.matrix * np.outer(kernel.residual_norms, kernel.residual_norms)
    assert _error(gram, (rows @ rows.T).numpy()) <= TOLERANCE


def _experts(weights: dict[str, torch.Tensor]) -> dict[str, list[torch.Tensor]]:
    """Tensors of every expert, by the module that holds it and its number."""
    found: dict[str, list[torch.Tensor]] = {}
    for name, weight in weights.items():
        module, _, rest = name.partition(".experts.")
        if rest.startswith("expert_"):
            found.setdefault(f"{module} {rest.split('.')[0]}", []).append(weight)
        elif rest:
            for i, part in enumerate(weight):
                found.setdefault(f"{module} expert_{i}", []).append(part)
    return found


@pytest.mark.parametrize("family", families.SPARSE)
def test_an_expert_that_is_never_chosen_contributes_nothing(family, method):
    model, probes = families.build(family), families.probes(3)
    reference, weights = _reference(model, probes), _trainable(model)
    gradients = {
        name: gradient.view(-1, *weights[name].shape).abs().sum(0)
        for name, gradient in reference.gradients.items()
    }
    idle = {n for n, parts in _experts(gradients).items() if not any(p.any() for p in parts)}
    experts = _experts({name: weight.detach() for name, weight in weights.items()})
    busy = experts.keys() - idle
    assert idle
    assert busy
    before = _kernel(model, probes, method).matrix
    for part in (part for name in idle for part in experts[name]):
        part += 1
    np.testing.assert_allclose(_kernel(model, probes, method).matrix, before, rtol=1e-12)
    for part in experts[min(busy)]:
        part += 1
    assert _error(_kernel(model, probes, method).matrix, before) > TOLERANCE


def test_rows_of_an_expert_are_not_taken_for_rows_of_the_batch(method):
    """Probes that happen to send an even number of tokens to either of two experts."""
    model = families.build("switch-experts")
    for seed in range(30):
        reference = _reference(model, families.probes(3, seed))
        kernel = _kernel(model, reference.probes, method)
        assert _error(kernel.matrix, reference.kernel()) <= TOLERANCE, seed


# Of 260 to 440 thousand weights: several share each number of a sketch.
_VOCABULARY = 512
_LARGER_IDS = {"vocab_size": _VOCABULARY, "decoder_start_token_id": 0} | dict.fromkeys(
    ("bos_token_id", "eos_token_id", "pad_token_id"), 0
)
_WIDE: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4}
_LARGER: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: hf.GPT2Config(**_LARGER_IDS, n_embd=96, n_layer=2, n_head=4, n_positions=64),
    "llama": lambda: hf.LlamaConfig(
        **_LARGER_IDS, **_WIDE, hidden_size=96, intermediate_size=192, num_key_value_heads=2
    ),
    "mixtral": lambda: hf.MixtralConfig(
        **_LARGER_IDS, **_WIDE, hidden_size=64, intermediate_size=96, num_key_value_heads=2
    ),
    "t5": lambda: hf.T5Config(
        **_LARGER_IDS, d_model=96, d_kv=24, d_ff=192, num_layers=2, num_heads=4
    ),
    "bart": lambda: hf.BartConfig(
        **_LARGER_IDS,
        d_model=96,
        max_position_embeddings=64,
        **{f"{side}_ffn_dim": 192 for side in ("encoder", "decoder")},
        **{f"{side}_layers": 2 for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
    ),
}


@pytest.mark.parametrize("family", _LARGER)
def test_the_sketch_errs_as_little_as_it_says(family):
    torch.manual_seed(0)
    config = _LARGER[family]()
    auto = hf.AutoModelForSeq2SeqLM if config.is_encoder_decoder else hf.AutoModelForCausalLM
    model = auto.from_config(config).eval()
    draw = np.random.default_rng(0)
    rows = draw.integers(1, _VOCABULARY, (48, 14)).tolist()
    probes = [Example(row[:8], row[8:]) for row in rows]
    sketch, exact = (_kernel(model, probes, method) for method in ("sketch", "exact"))
    error = _error(sketch.matrix, exact.matrix)
    assert 250_000 < sketch.parameters < 450_000
    assert 0 < error <= 0.06
    assert error <= 1.5 * sketch.relative_error
