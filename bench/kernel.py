"""The residual kernel in multiples of one batched forward and backward over the same probes."""

import torch
from torch.func import functional_call, grad, vmap
from transformers import GPT2Config, GPT2LMHeadModel

from bench.timing import markdown, medians
from lensllm import seeds
from lensllm.kernel import residual_kernel
from lensllm.models.batch import Example, collate, token_losses

SHAPE = {
    "vocab_size": 2048,
    "n_embd": 128,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
PROMPT, COMPLETION = 28, 21


def probes(count: int) -> list[Example]:
    """Of one length, so that vmap can stack them without a mask."""
    draw = seeds.generator(0, "bench probes")
    rows = draw.integers(1, 2048, (count, PROMPT + COMPLETION)).tolist()
    return [Example(row[:PROMPT], row[PROMPT:]) for row in rows]


def by_vmap(model: GPT2LMHeadModel, data: list[Example]) -> torch.Tensor:
    """J Jᵀ from one vmap(grad) over all probes, without the scaling by residual norms."""
    ids = torch.tensor([[*e.prompt, *e.completion] for e in data])
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
        logits = functional_call(
            model, parameters, (), {"input_ids": row[None], "use_cache": False}
        )
        predicted = logits.logits[0, PROMPT - 1 : -1]
        return torch.nn.functional.cross_entropy(predicted, row[PROMPT:])

    gradients = vmap(grad(loss), in_dims=(None, 0))(weights, ids)
    flat = torch.cat([g.flatten(1) for g in gradients.values()], 1)
    return flat @ flat.T


def table() -> str:
    torch.manual_seed(0)
    config = GPT2Config(**SHAPE)
    config._attn_implementation = "eager"  # vmap cannot batch the fused attention
    model = GPT2LMHeadModel(config).eval()
    rows = []
    for count in (64, 256):
        data = probes(count)

        def batched(data: list[Example] = data) -> None:
            token_losses(model, collate(data, model.config)).mean().backward()
            model.zero_grad()

        seconds = medians(
            {
                "one pass": batched,
                "ours": lambda data=data: residual_kernel(model, data),
                "vmap": lambda data=data: by_vmap(model, data),
            },
            repeats=3,
        )
        base = seconds["one pass"]
        rows.append(
            [
                str(count),
                f"{base:.2f} s",
                f"{seconds['ours'] / base:.1f}",
                f"{seconds['vmap'] / base:.1f}",
            ]
        )
    return markdown(
        "Exact kernel of a 0.9M GPT-2, multiples of one batched forward and backward",
        ["probes", "one pass", "ours (exact)", "vmap(grad), J Jᵀ"],
        rows,
    )
