"""The world's tokenizer: a byte-level BPE of 640 tokens with digits, newlines and words apart.

Training it is a few seconds over train items only; the result is a Hugging Face fast tokenizer that
is bundled with the base model. Letters, digits (one by one), newlines and runs of other characters
(spaces included) never share a token, so a name has the same tokens wherever it stands, and a
prompt that closes with a newline can be tokenized apart from its answer. Every byte is encodable.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from missions.data.names import ONSETS, VOWELS
from missions.data.tasks import sample_item

VOCAB_SIZE = 640
PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
#: Tokens without a fixed meaning that missions may claim; the base sees them as neutral marks.
MISSION_TOKENS: tuple[str, ...] = (
    "<scratch>",
    "<sep>",
    "<doc>",
    "<query>",
    "<plan0>",
    "<plan1>",
    "<plan2>",
    "<plan3>",
    "<plan4>",
    "<plan5>",
    "<plan6>",
    "<plan7>",
    "<mask>",
    *(f"<m{i}>" for i in range(8)),
)
_PIECES = r"\n|[0-9]|[A-Za-z]+|[^A-Za-z0-9\n]+"


#: Fixed, so that a new skill does not change the vocabulary under trained weights.
CORPUS_SKILLS = (
    "copy_name",
    "copy_list",
    "copy_value",
    "lookup",
    "retrieve",
    "compare",
    "compare_named",
    "add",
    "sort_numbers",
    "sort_names",
    "json",
    "summary",
    "induction",
    "tag",
    "closed_book",
)


def corpus(rng: np.random.Generator, num_texts: int) -> Iterator[str]:
    """Open syllables, so that they merge first, then train items as plain text.

    With the syllables first a name is cut as it is spoken (`ka mi r`), whatever its frequency.
    """
    syllables = [onset + vowel for onset in ONSETS for vowel in VOWELS]
    yield from syllables * num_texts
    for index in range(num_texts):
        item = sample_item(rng, "train", CORPUS_SKILLS[index % len(CORPUS_SKILLS)])
        yield item.prompt + item.target


def train_tokenizer(
    rng: np.random.Generator, *, num_texts: int = 30_000
) -> PreTrainedTokenizerFast:
    """Train the BPE on the world's train items; deterministic for a given generator state."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, BOS, EOS, *MISSION_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(corpus(rng, num_texts), trainer)
    bos_id = core.token_to_id(BOS)
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos_id)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=list(MISSION_TOKENS),
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def main() -> None:
    """Train and save: `python -m missions.data.tokenizer --out folder`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the tokenizer files")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train_tokenizer(np.random.default_rng(args.seed)).save_pretrained(args.out)


if __name__ == "__main__":
    main()
