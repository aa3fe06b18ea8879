"""Tokenizers with the chat templates that people meet, trained on the spot."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lensllm.models.zoo import tokenizer

TEXT = ["You are a cat. the cat sat on the mat, and said: Hi!\n\nuser assistant model é 🦀"] * 3

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# writes its own beginning-of-text, strips, and writes the date of the day
LLAMA = (
    "{{ bos_token }}{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y')"
    " %}{% endif %}<|im_start|>Today: {{ date_string }}<|im_end|>{% for m in messages %}<|im_start|>"
    "{{ m['role'] }}\n\n{{ m['content'] | trim }}<|im_end|>{% endfor %}"
)
# knows no system and no other order than user, assistant
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}<|im_start|>"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}"
    "<|im_end|>\n{% endfor %}"
)
# only text around the answer: a space before it, a newline behind
BARE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def byte_level(template: str | None = None, *, begins: bool = False) -> PreTrainedTokenizerFast:
    """GPT-2's kind; with ``begins`` it puts a beginning-of-text before every text, as Llama's."""
    made = tokenizer.train(TEXT, vocabulary=330)
    made.add_special_tokens(
        {"bos_token": "<s>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    )
    if begins:
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", made.bos_token_id)]
        )
    made.chat_template = template
    return made


def trimming(template: str) -> PreTrainedTokenizerFast:
    """As GPT-2's own: the offsets leave out the space before a word."""
    made = byte_level(template)
    made.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return made


def metaspace(template: str) -> PreTrainedTokenizerFast:
    """T5's kind: unigrams, a mark for spaces, and unknown characters."""
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    unigram.train_from_iterator(TEXT, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=unigram, eos_token="</s>", unk_token="<unk>", bos_token="<s>"
    )
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = template
    return made


TOKENIZERS = {
    "chatml": byte_level(CHATML),
    "llama": byte_level(LLAMA, begins=True),
    "gemma": byte_level(GEMMA, begins=True),
    "bare": byte_level(BARE),
    "trimming": trimming(CHATML),
    "trimming bare": trimming(BARE),
    "metaspace": metaspace(CHATML),
}
