"""Our training step against the plain one: random batches, attention mask, all logits."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from bench.timing import markdown, medians
from lensllm import seeds
from lensllm.finetune import batches
from lensllm.models.batch import Example, collate, token_losses

SIZES = {"0.17M": (48, 2, 2), "0.9M": (128, 3, 4), "5M": (256, 6, 4)}
BATCH, EXAMPLES = 16, 256


def examples() -> list[Example]:
    """Lengths like the embedded data's: 28 prompt and 21 target tokens on average."""
    draw = seeds.generator(0, "bench examples")

    def tokens(mean: int) -> list[int]:
        return draw.integers(1, 2048, 2 + draw.poisson(draw.gamma(2, mean / 2))).tolist()

    return [Example(tokens(28)[:64], tokens(21)[:64]) for _ in range(EXAMPLES)]


def step(model: nn.Module, optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def ours(model: nn.Module, optimiser: torch.optim.Optimizer, data: list[Example]) -> None:
    for indices in batches([len(e) for e in data], BATCH, seeds.generator(0, "bench order")):
        batch = collate([data[i] for i in indices], model.config)
        step(model, optimiser, token_losses(model, batch).mean())


def plain(model: nn.Module, optimiser: torch.optim.Optimizer, data: list[Example]) -> None:
    order = seeds.generator(0, "bench order").permutation(len(data))
    for start in range(0, len(data), BATCH):
        chosen = [data[i] for i in order[start : start + BATCH]]
        width = max(map(len, chosen))
        ids = torch.zeros(len(chosen), width, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, example in enumerate(chosen):
            whole = torch.tensor([*example.prompt, *example.completion])
            ids[row, : len(whole)] = whole
            mask[row, : len(whole)] = 1
            labels[row, len(example.prompt) : len(whole)] = whole[len(example.prompt) :]
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        step(model, optimiser, loss)


def epoch(way: Callable[..., None], width: int, layers: int, heads: int) -> Callable[[], None]:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=2048,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        n_positions=128,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).train()
    fused = way is ours
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    data = examples()
    return lambda: way(model, optimiser, data)


def table() -> str:
    tokens = sum(map(len, examples()))
    rows = []
    for name, shape in SIZES.items():
        seconds = medians({w.__name__: epoch(w, *shape) for w in (ours, plain)})
        rows.append(
            [
                name,
                f"{tokens / seconds['ours']:,.0f}",
                f"{tokens / seconds['plain']:,.0f}",
                f"{seconds['plain'] / seconds['ours']:.1f}",
            ]
        )
    return markdown(
        "Fine-tuning, GPT-2, tokens per second on one core",
        ["weights", "our loop", "plain loop", "ratio"],
        rows,
    )
