"""Generation against `model.generate(num_return_sequences=K)`: same weights, prompts, settings and process.

Both sample K answers per prompt at temperature 1 without filters. The library gets left-padded batches of prompts
sorted by length, at the best of several batch sizes, found in a first pass; then ours and the library's best are
timed in turn. Counted are the tokens of the answers up to and with their end token; what the library computes for
answers that have ended does not count, and ours alone keeps log-probabilities. A ratio comes from one round, so a
machine that slows down slows both.

    python benchmarks/generation.py [--model FOLDER] [--prompts 64] [--rounds 3] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers

from prefloop.config.sampling import Sampling
from prefloop.generation.generate import generate_completions
from prefloop.models.lineage import Lineage
from prefloop.models.load import EMBEDDED, Policy, load_policy
from prefloop.models.template import encode_prompt, end_token_ids
from prefloop.models.tokenizer import train_tokenizer
from prefloop.progress import set_quiet
from prefloop.records import Prompt
from prefloop.tasks.nba.corpus import draw_examples
from prefloop.tasks.nba.league import teams
from prefloop.tasks.nba.names import person_name
from prefloop.tasks.nba.questions.worlds import OpenWorld
from prefloop.tasks.nba.task import team_words

QUESTION_SEED = 20_000
"""Not a seed of any corpus."""


def main() -> None:
    """Measure and print a Markdown table."""
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    set_quiet(True)
    questions = _questions(options.prompts)
    policy = _policy(options.model, questions)
    prompts = [Prompt.create(({"role": "user", "content": text},), "benchmark", "test") for text in questions]
    sampling = Sampling(k=options.k, max_new_tokens=options.max_new_tokens)
    batches = {size: _peer(policy, prompts, sampling, size) for size in options.batch_sizes}

    def ours(seed: int) -> list[int]:
        return [len(c.token_ids) for c in generate_completions(policy, prompts, sampling, seed=seed)]

    ours(0)  # warm-up; the library warms up in the first pass, which only finds its best batch size
    first = {size: _rate(run, 1)[0] for size, run in batches.items()}
    best = max(first, key=lambda size: first[size])
    rounds = [(_rate(ours, seed), _rate(batches[best], seed)) for seed in range(2, 2 + options.rounds)]
    _report(policy, options, first, best, rounds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="embedded", help="model folder, hub id or 'embedded'")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0 = torch's default")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[4, 8, 16, 32, 64], help="in prompts")
    return parser.parse_args()


def _questions(count: int) -> list[str]:
    world = OpenWorld(sorted(team.code for team in teams()), person_name)
    return [example.question for example in draw_examples(world, team_words(), count, QUESTION_SEED)]


def _policy(source: str, questions: Sequence[str]) -> Policy:
    """The model asked for; where the package was built without its policy, a random one of the same shape.

    Twelve of its 1,024 tokens end an answer, which gives geometric lengths with a mean of about 85 tokens.
    """
    if source != "embedded" or EMBEDDED.is_dir():
        return load_policy(source)
    tokenizer = train_tokenizer(questions, 1_024, 2_048)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=1_024,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=2_048,
        bos_token_id=None,
        eos_token_id=list(range(1, 13)),
        pad_token_id=0,
    )
    return Policy(transformers.LlamaForCausalLM(config).eval(), tokenizer, Lineage("random"), "random")


def _peer(policy: Policy, prompts: Sequence[Prompt], sampling: Sampling, size: int) -> Callable[[int], list[int]]:
    """A function of the seed: `model.generate` over all prompts, `size` at a time; answer lengths in tokens."""
    model: Any = policy.model
    ends = torch.tensor(sorted(end_token_ids(policy.model, policy.tokenizer)), device=policy.device)
    pad = policy.tokenizer.pad_token_id or 0

    def run(seed: int) -> list[int]:
        torch.manual_seed(seed)
        lengths: list[int] = []
        encoded = sorted((encode_prompt(policy.tokenizer, prompt.messages) for prompt in prompts), key=len)
        for start in range(0, len(encoded), size):
            chunk = encoded[start : start + size]
            width = max(map(len, chunk))
            ids = torch.tensor([[pad] * (width - len(row)) + row for row in chunk], device=policy.device)
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in chunk], device=policy.device)
            written = model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                num_return_sequences=sampling.k,
                max_new_tokens=sampling.max_new_tokens,
                eos_token_id=ends.tolist(),
                pad_token_id=pad,
            )[:, width:]
            ended = torch.isin(written, ends)
            first_end = torch.where(ended.any(-1), ended.int().argmax(-1) + 1, written.shape[1])
            lengths += first_end.tolist()
        return lengths

    return run


def _rate(run: Callable[[int], list[int]], seed: int) -> tuple[float, float]:
    """Tokens per second, and the mean length of an answer in tokens."""
    started = time.perf_counter()
    lengths = run(seed)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return sum(lengths) / (time.perf_counter() - started), statistics.fmean(lengths)


def _report(
    policy: Policy,
    options: argparse.Namespace,
    first: dict[int, float],
    best: int,
    rounds: list[tuple[tuple[float, float], tuple[float, float]]],
) -> None:
    print(
        f"{policy.name}, {policy.model.num_parameters():,} parameters, {policy.model.dtype}, {policy.device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, transformers {transformers.__version__}; "
        f"{options.prompts} prompts x {options.k} answers, at most {options.max_new_tokens} tokens each\n"
    )
    sizes = ", ".join(f"{size}: {rate:,.0f}" for size, rate in first.items())
    print(f"`model.generate`, tokens/s by prompts per batch: {sizes}\n")
    print("| | tokens/s, median (least to most) | mean answer, tokens |\n|---|---|---|")
    for name, side in (("prefloop", 0), (f"model.generate, {best} prompts per batch", 1)):
        rates = [pair[side][0] for pair in rounds]
        length = statistics.fmean(pair[side][1] for pair in rounds)
        print(f"| {name} | {statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | {length:.0f} |")
    ratios = [mine[0] / other[0] for mine, other in rounds]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"| **ratio, {len(rounds)} rounds** | **{statistics.median(ratios):.2f}** ({spread}) | |")


if __name__ == "__main__":
    main()
