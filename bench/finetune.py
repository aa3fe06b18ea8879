"""Our training loop beside transformers' Trainer with dynamic padding: throughput, memory, loss.

Same recipe, same examples, one thread; each measurement is a process of its own, ways in turn, and
time is the processor's. ``python -m bench.finetune ours|trainer SIZE`` is one of them. On a GPU the
clock's time, and the share of its peak FLOPs (``LENSLLM_PEAK_TFLOPS``) that the model's take.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    DataCollatorForSeq2Seq,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from bench.timing import markdown
from lensllm.config.sections import FineTune
from lensllm.core import seeds
from lensllm.core.meter import Meter
from lensllm.models import cost, load
from lensllm.models.batch import Example
from lensllm.models.load import fuse_activations
from lensllm.training.evaluate import evaluate
from lensllm.training.loop import batches, fine_tune, learning_rate

# width, layers, heads with a vocabulary of 2,048, as the embedded candidates have
SIZES = {"0.25M": (64, 2, 2), "1M": (136, 3, 4), "5M": (256, 6, 4)}
WANTED = {"0.25M": 3.0, "1M": 1.8, "5M": 2.0}
RECIPE = FineTune(batch_size=16, epochs=2, learning_rate=1e-3, precision="float32")
ROUNDS, EXAMPLES, HELD_OUT, VOCABULARY = 3, 256, 200, 2048


def examples(count: int, purpose: str) -> list[Example]:
    """Lengths like the embedded data's, 28 prompt and 21 target tokens on average, and completions
    that follow from their prompts, so that there is something to learn."""
    draw = seeds.generator(0, purpose)

    def length(mean: int) -> int:
        return min(60, 2 + int(draw.poisson(draw.gamma(2, mean / 2))))

    made = []
    for _ in range(count):
        prompt = draw.integers(1, VOCABULARY, length(28)).tolist()
        start = prompt[0] % 50
        made.append(Example(prompt, [1 + (start + i) % 50 for i in range(length(21))] + [0]))
    return made


def model(size: str) -> Any:
    torch.manual_seed(0)
    width, layers, heads = SIZES[size]
    settings = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        n_positions=128,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(settings)


def ours(made: Any, data: list[Example], device: torch.device, seed: int) -> Callable[[], None]:
    """Our loop on the model as we load it, which validates after every epoch; on one example, as
    that is not what is timed."""
    made = fuse_activations(made)

    def run() -> None:
        fine_tune(made, data, data[:1], RECIPE, seed=seed, device=device, dtype=torch.float32)

    return run


def trainer(made: Any, data: list[Example], device: torch.device, seed: int) -> Callable[[], None]:
    """transformers' own, as its users set it up: random batches, each padded to its longest."""
    rows = [
        {
            "input_ids": [*e.prompt, *e.completion],
            "attention_mask": [1] * len(e),
            "labels": [*[-100] * len(e.prompt), *e.completion],
        }
        for e in data
    ]
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=RECIPE.batch_size,
        num_train_epochs=RECIPE.epochs,
        max_grad_norm=RECIPE.clip,
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
    )
    # Its own schedule is a step behind ours, its own optimiser spares biases the decay: of a run as
    # short as this one both would show in the loss.
    steps = RECIPE.epochs * math.ceil(len(data) / RECIPE.batch_size)
    optimiser = torch.optim.AdamW(
        made.parameters(), RECIPE.learning_rate, weight_decay=RECIPE.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate(step, steps, 1.0, RECIPE.warmup)
    )
    learner = Trainer(
        optimizers=(optimiser, schedule),
        model=made,
        args=arguments,
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(_Tokenizer(), label_pad_token_id=-100),
        callbacks=[_Quiet()],
    )
    return lambda: learner.train() and None


class _Quiet(TrainerCallback):
    """No words about the end of training."""


class _Tokenizer:
    """What the collator asks of a tokenizer: to pad on the right."""

    padding_side = "right"
    pad_token_id = 0

    def pad(self, features: Any, **_: Any) -> dict[str, torch.Tensor]:
        width = max(len(f["input_ids"]) for f in features)
        fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
        return {
            name: torch.tensor(
                [[*f[name], *[fill[name]] * (width - len(f[name]))] for f in features]
            )
            for name in features[0]
        }


def measured(way: str, size: str, seed: int) -> dict[str, float]:
    """One training in this process."""
    torch.set_num_threads(1)
    device = load.choose_device("auto")
    made, data = model(size).to(device), examples(EXAMPLES, "bench train")
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    small = model(size).to(device)
    WAYS[way](small, data[:64], device, 1)()  # kernels are compiled and libraries imported
    run = WAYS[way](made, data, device, seed)
    meter = Meter(device)
    begin = clock()
    run()
    seconds = clock() - begin
    peak = meter.peak_memory_bytes()
    held = evaluate(made, examples(HELD_OUT, "bench test"), device=device, dtype=torch.float32)
    flops = cost.train_flops(cost.shape_of(made), data, RECIPE.epochs)
    return {
        "targets": RECIPE.epochs * sum(len(e.completion) for e in data) / seconds,
        "tokens": RECIPE.epochs * sum(map(len, data)) / seconds,
        "peak": peak,
        "loss": held.nats_per_token,
        "flops": flops / seconds,
    }


WAYS: dict[str, Callable[..., Callable[[], None]]] = {"ours": ours, "trainer": trainer}


def table() -> str:
    on = load.choose_device("auto").type
    rows = []
    for size in SIZES:
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for seed in range(ROUNDS):
            for way in WAYS:
                found[way].append(_in_a_process(way, size, seed))
        mine, theirs = (_medians(found[way]) for way in WAYS)
        ratio = mine["tokens"] / theirs["tokens"]
        losses = {way: [run["loss"] for run in found[way]] for way in WAYS}
        rows.append(
            [
                size,
                f"{mine['tokens']:,.0f} / {mine['targets']:,.0f}",
                f"{theirs['tokens']:,.0f} / {theirs['targets']:,.0f}",
                f"{ratio:.2f}",
                f"{_bound(size):.2f}",
                f"{WANTED[size]:.1f}" if on == "cpu" else "1.0",
                f"{mine['peak'] / 1e6:,.0f} / {theirs['peak'] / 1e6:,.0f}",
                _range(losses["ours"]),
                _range(losses["trainer"]),
                _utilisation(mine["flops"], on),
            ]
        )
    return markdown(
        f"Fine-tuning GPT-2 on {on}, one thread: all / target tokens per second",
        ["weights", "our loop", "Trainer", "ratio", "by FLOPs alone", "wanted",
         "peak MB, ours / Trainer", "loss, ours", "loss, Trainer", "our FLOP/s"],
        rows,
    )  # fmt: skip


def _bound(size: str) -> float:
    """The ratio that multiplications alone would give: by padding, and the head everywhere."""
    shape, data = cost.shape_of(model(size)), examples(EXAMPLES, "bench train")
    lengths, rows = [len(e) for e in data], RECIPE.batch_size
    order = seeds.generator(0, "bench order").permutation(EXAMPLES).tolist()
    at_random = [order[i : i + rows] for i in range(0, EXAMPLES, rows)]
    alike = list(batches(lengths, rows, seeds.generator(0, "bench order")))
    padded, ours = (
        sum(len(b) * max(lengths[i] for i in b) for b in cut) for cut in (at_random, alike)
    )
    targets = sum(len(e.completion) for e in data)
    decoder, head = (part.forward + part.backward for part in (shape.decoder, shape.head))
    return padded * (decoder + head) / (ours * decoder + targets * head)


def _in_a_process(way: str, size: str, seed: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.finetune", way, size, str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, cwd=_ROOT
    )
    said: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return said


_ROOT = Path(__file__).parents[1]


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def _range(losses: list[float]) -> str:
    return f"{min(losses):.3f}–{max(losses):.3f}"


def _utilisation(flops: float, device: str) -> str:
    peak = float(os.environ.get("LENSLLM_PEAK_TFLOPS", "nan"))
    share = f", {flops / 1e12 / peak:.0%} of the peak" if device != "cpu" and peak == peak else ""
    return f"{flops / 1e9:,.1f} GFLOP/s{share}"


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
