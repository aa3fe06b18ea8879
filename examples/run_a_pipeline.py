"""Run a whole pipeline from Python: two tiny models, fine-tuned on small subsets and ranked.

    python examples/run_a_pipeline.py [folder]

The models are made on the spot, untrained, so that the example takes seconds; candidates are
usually names on the Hugging Face hub or folders of checkpoints.
"""

import json
import random
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import lensllm

WORDS = ["red", "green", "blue", "small", "large", "round"]


def write_model(folder: Path, width: int) -> None:
    """Write an untrained GPT-2 whose tokens are words."""
    vocabulary = {word: i for i, word in enumerate(["<end>", "?", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="?")
    shape = {"vocab_size": len(vocabulary), "n_embd": width, "n_layer": 1, "n_head": 2}
    config = GPT2Config(**shape, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_data(file: Path) -> None:
    """Write examples of a task: words in the prompt, the same words sorted in the completion."""
    draw = random.Random(0)
    with file.open("w") as lines:
        for _ in range(300):
            words = draw.choices(WORDS, k=4)
            row = {"prompt": " ".join(words), "completion": " ".join(sorted(words))}
            print(json.dumps(row), file=lines)


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "example")
folder.mkdir(exist_ok=True)
write_data(folder / "words.jsonl")
for width in (8, 32):
    write_model(folder / f"width-{width}", width)

result = lensllm.run(
    {
        "data": {
            "source": str(folder / "words.jsonl"),
            "validation_examples": 20,
            "test_examples": 40,
        },
        "candidates": [str(folder / "width-8"), str(folder / "width-32")],
        "sweep": {"min": 8, "max": 64, "target": 128, "measure_target": True},
        "finetune": {"learning_rate": 1e-2, "batch_size": 8},
    },
    artifacts=folder / "artifacts",
)
print(result.verdict)
