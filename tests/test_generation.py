"""Generation against naive oracles: one prompt at a time, no padding, no cache of ours."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)
from transformers.cache_utils import DynamicCache

from prefloop.config.sampling import Sampling
from prefloop.errors import ConfigError, DataError, ModelError
from prefloop.generation import generate as generate_module
from prefloop.generation.cache import GrowingLayer, cache_bytes, growing_cache, rows_can_move
from prefloop.generation.generate import generate_completions
from prefloop.generation.sampler import choose, log_probability, uniforms
from prefloop.models.lineage import Lineage
from prefloop.models.load import Policy
from prefloop.models.template import encode_prompt, end_token_ids
from prefloop.progress import set_quiet
from prefloop.records import Completion, Prompt, canonical_json
from prefloop.store.journal import FileJournal

SPECIAL = ["<pad>", "<end>", "<user>", "<assistant>"]
BYTES = pre_tokenizers.ByteLevel.alphabet()
VOCABULARY = len(SPECIAL) + len(BYTES)
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    # Large weights: with the usual 0.02 a wrong key would hide in the rounding.
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GATED: dict[str, Any] = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**GATED),
    "sliding window": MistralConfig(**GATED, sliding_window=8),
    "qwen3": Qwen3Config(**GATED, head_dim=8),
    "gpt2": GPT2Config(**SIZES),
    "opt": OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32),
    "alibi": BloomConfig(**SIZES),
    "convolution": Lfm2Config(**GATED, layer_types=["conv", "full_attention"]),
}
TEXTS = [
    "a",
    "which team won",
    "points per game of nobody",
    "who?",
    "ties",
    "the longest of these questions, by far",
]
PROMPTS = [Prompt.create(({"role": "user", "content": text},), "toy", "train") for text in TEXTS]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    torch.set_num_threads(1)
    set_quiet(True)
    yield
    set_quiet(False)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte."""
    ids = {token: i for i, token in enumerate([*SPECIAL, *sorted(BYTES)])}
    core = Tokenizer(models.BPE(vocab=ids, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>", chat_template=TEMPLATE)


def policy(kind: str = "llama", ends: int = 12) -> Policy:
    """A random model for which `ends` of the 260 tokens end an answer, so that lengths differ widely."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[kind])).eval()
    model.generation_config.eos_token_id = list(range(1, 1 + 20 * ends, 20))
    model.generation_config.pad_token_id = 0
    return Policy(model, tokenizer(), Lineage("toy"), "toy")


def next_logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([ids]), use_cache=False).logits[0, -1].float()
    return logits


def dump(completions: list[Completion]) -> str:
    return canonical_json([[c.id, c.text, c.token_ids, c.logprobs, c.finish_reason] for c in completions])


def tokens_of(completions: list[Completion]) -> dict[tuple[str, int], tuple[int, ...]]:
    return {(c.prompt_id, c.index): c.token_ids for c in completions}


# --- Against model.generate and whole forward passes -----------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS)
def test_greedy_equals_the_library_one_prompt_at_a_time(kind: str) -> None:
    toy = policy(kind)
    ours = generate_completions(toy, PROMPTS, Sampling(greedy=True, max_new_tokens=40), seed=0)
    for prompt, completion in zip(PROMPTS, ours, strict=True):
        ids = torch.tensor([encode_prompt(toy.tokenizer, prompt.messages)])
        theirs = toy.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40
        )
        assert list(completion.token_ids) == theirs[0, ids.shape[1] :].tolist()
        assert completion.index == -1
    assert len({len(c.token_ids) for c in ours}) > 1, "no row left the batch early: the test tests nothing"


@pytest.mark.parametrize("kind", CONFIGS)
def test_logprobs_are_those_of_a_whole_forward_pass_at_temperature_1(kind: str) -> None:
    toy = policy(kind)
    sampling = Sampling(k=3, temperature=0.7, top_p=0.9, max_new_tokens=24)
    encoded = {p.id: encode_prompt(toy.tokenizer, p.messages) for p in PROMPTS}
    for completion in generate_completions(toy, PROMPTS, sampling, seed=3):
        prompt = encoded[completion.prompt_id]
        ids = torch.tensor([[*prompt, *completion.token_ids]])
        with torch.no_grad():
            scores = toy.model(ids, use_cache=False).logits[0].float().log_softmax(-1)
        expected = scores[len(prompt) - 1 : -1].gather(-1, ids[0, len(prompt) :, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "sliding window", "convolution"])
def test_samples_equal_a_naive_loop_over_whole_forward_passes(kind: str) -> None:
    toy = policy(kind)
    sampling = Sampling(k=4, temperature=0.8, max_new_tokens=16)
    ends = end_token_ids(toy.model, toy.tokenizer)
    found = tokens_of(generate_completions(toy, PROMPTS, sampling, seed=5, round_=2))
    for prompt in PROMPTS[:4]:
        for index in range(4):
            ids = encode_prompt(toy.tokenizer, prompt.messages)
            answer: list[int] = []
            for draw in uniforms(5, 2, prompt.id, index, 16).tolist():
                mass = torch.softmax(next_logits(toy.model, ids + answer).double() / 0.8, -1).tolist()
                passed, token = mass[0], 0
                while passed <= draw:
                    token += 1
                    passed += mass[token]
                answer.append(token)
                if token in ends:
                    break
            assert found[prompt.id, index] == tuple(answer)


def test_answers_do_not_depend_on_their_neighbours() -> None:
    toy, sampling = policy(), Sampling(k=4, max_new_tokens=48)
    together = tokens_of(generate_completions(toy, PROMPTS, sampling, seed=1))
    chunked = tokens_of(generate_completions(toy, PROMPTS, sampling, seed=1, rows=8))
    reverse = tokens_of(generate_completions(toy, PROMPTS[::-1], sampling, seed=1))
    assert together == chunked == reverse
    for prompt in PROMPTS:
        alone = tokens_of(generate_completions(toy, [prompt], sampling, seed=1))
        assert alone == {key: ids for key, ids in together.items() if key[0] == prompt.id}
    more = tokens_of(generate_completions(toy, PROMPTS, Sampling(k=6, max_new_tokens=48), seed=1))
    assert together.items() <= more.items(), "the first four of six answers are the four"


def test_seed_round_and_index_each_change_the_draws() -> None:
    keys = [(1, 0, "a", 0), (2, 0, "a", 0), (1, 1, "a", 0), (1, 0, "b", 0), (1, 0, "a", 1), (1, 0, "a", -1)]
    assert len({tuple(uniforms(*key, 4).tolist()) for key in keys}) == len(keys)
    draws = uniforms(1, 0, "a", 0, 20_000)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert abs(draws.mean().item() - 0.5) < 4 / math.sqrt(12 * 20_000)


def test_each_prompt_is_computed_once_for_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = policy()
    rows: list[tuple[int, ...]] = []
    forward = toy.model.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        rows.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    monkeypatch.setattr(toy.model, "forward", spy)
    answers = generate_completions(toy, PROMPTS, Sampling(k=5, max_new_tokens=48), seed=1)
    longest = max(len(encode_prompt(toy.tokenizer, p.messages)) for p in PROMPTS)
    lengths = [len(c.token_ids) for c in answers]
    assert rows[0] == (len(PROMPTS), longest)
    # Step s reads the token of every answer that is longer than s, and of no other.
    assert rows[1:] == [(sum(length > s for length in lengths), 1) for s in range(1, max(lengths))]


# --- Choosing a token ------------------------------------------------------------------------------


def share(probabilities: list[float], sampling: Sampling, draws: int = 840) -> list[float]:
    """How often each token is chosen over an even grid of draws."""
    grid = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    logits = torch.tensor(probabilities).log().expand(draws, -1)
    count = Counter(choose(logits, grid, sampling).tolist())
    return [count[token] / draws for token in range(len(probabilities))]


# Of 1/8, 1/2, 1/8, 1/4: temperature 1/2 squares (1 : 16 : 1 : 4 of 22). top_k=3 leaves 4 : 2 : 1 of 7 (the
# tie goes to either eighth), of which the first two hold 6/7 >= 0.8, so top_p=0.8 drops the third; on the
# whole distribution the first two would hold 3/4 < 0.8 and it would stay.
@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [1 / 8, 1 / 2, 1 / 8, 1 / 4]),
        (Sampling(temperature=0.5), [1 / 22, 16 / 22, 1 / 22, 4 / 22]),
        (Sampling(top_k=2), [0, 2 / 3, 0, 1 / 3]),
        (Sampling(top_k=99), [1 / 8, 1 / 2, 1 / 8, 1 / 4]),
        (Sampling(top_p=0.6), [0, 2 / 3, 0, 1 / 3]),
        (Sampling(top_p=0.49), [0, 1, 0, 0]),
        (Sampling(top_p=0.01), [0, 1, 0, 0]),
        (Sampling(top_k=3, top_p=0.8), [0, 2 / 3, 0, 1 / 3]),
        (Sampling(temperature=1e-3), [0, 1, 0, 0]),
        (Sampling(greedy=True), [0, 1, 0, 0]),
    ],
)
def test_tokens_come_as_often_as_the_filtered_distribution_says(sampling: Sampling, expected: list[float]) -> None:
    assert share([1 / 8, 1 / 2, 1 / 8, 1 / 4], sampling) == pytest.approx(expected, abs=2 / 840)


@given(
    st.lists(st.just(0.0) | st.floats(1e-9, 1), min_size=1, max_size=9).filter(any),
    st.sampled_from([0.0, 0.5, 1 - 2**-53, 1.0]),
    st.sampled_from([Sampling(), Sampling(top_p=0.7), Sampling(top_k=2)]),
)
def test_a_token_of_probability_0_is_never_chosen(weights: list[float], draw: float, sampling: Sampling) -> None:
    mass = torch.tensor(weights)
    token = choose(mass.log()[None], torch.tensor([draw], dtype=torch.float64), sampling).item()
    assert mass[int(token)] > 0


def test_temperature_to_0_is_greedy() -> None:
    toy = policy()
    cold = generate_completions(toy, PROMPTS, Sampling(k=2, temperature=1e-4, max_new_tokens=12), seed=9)
    best = generate_completions(toy, PROMPTS, Sampling(greedy=True, max_new_tokens=12), seed=9)
    assert [c.token_ids for c in cold] == [c.token_ids for c in best for _ in range(2)]


def test_log_probability_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    assert log_probability(logits, torch.tensor([1, 0])).tolist() == pytest.approx([-math.log(2), math.log(3 / 4)])


def test_settings_that_mean_nothing_are_refused_together() -> None:
    with pytest.raises(ConfigError, match=r"k=0.*temperature=0.*top_p=1.5.*top_k=-1.*max_new_tokens=0.*stop"):
        Sampling(k=0, temperature=0, top_p=1.5, top_k=-1, max_new_tokens=0, stop=("",))
    with pytest.raises(ConfigError, match="no effect"):
        Sampling(greedy=True, temperature=0.7)


# --- How answers end -------------------------------------------------------------------------------


def test_finish_reasons() -> None:
    toy = policy()
    ends = end_token_ids(toy.model, toy.tokenizer)
    answers = generate_completions(toy, PROMPTS, Sampling(k=8, max_new_tokens=10), seed=2)
    assert {c.finish_reason for c in answers} == {"stop", "length"}
    for completion in answers:
        *body, last = completion.token_ids
        assert not ends & set(body)
        assert (completion.finish_reason == "stop") == (last in ends)
        assert completion.finish_reason == "stop" or len(completion.token_ids) == 10
        assert len(completion.logprobs) == len(completion.token_ids)


def test_every_answer_ends_at_once_when_every_token_is_an_end() -> None:
    toy = policy()
    toy.model.generation_config.eos_token_id = list(range(VOCABULARY))
    answers = generate_completions(toy, PROMPTS, Sampling(k=2, max_new_tokens=9), seed=2)
    assert {(c.finish_reason, len(c.token_ids)) for c in answers} == {("stop", 1)}


def test_without_any_end_token_every_answer_runs_to_the_limit() -> None:
    toy = policy()
    toy.model.generation_config.eos_token_id = toy.tokenizer.eos_token = None
    answers = generate_completions(toy, PROMPTS, Sampling(k=2, max_new_tokens=9), seed=2)
    assert {(c.finish_reason, len(c.token_ids)) for c in answers} == {("length", 9)}


def test_special_tokens_stay_in_the_ids_and_out_of_the_text() -> None:
    toy = policy()
    toy.model.generation_config.eos_token_id = 1
    bias = torch.zeros(VOCABULARY)
    bias[1] = 6.0  # the end token of the tokenizer becomes likely
    toy.model.lm_head.bias = torch.nn.Parameter(bias)
    stopped = [
        c
        for c in generate_completions(toy, PROMPTS, Sampling(k=8, max_new_tokens=30), seed=4)
        if c.finish_reason == "stop"
    ]
    assert stopped
    for completion in stopped:
        assert completion.token_ids[-1] == 1
        assert completion.text == toy.tokenizer.decode(
            [token for token in completion.token_ids if token >= len(SPECIAL)]
        )


def test_a_stop_text_ends_the_answer_and_leaves_its_text() -> None:
    toy = policy(ends=0)
    free = generate_completions(toy, PROMPTS, Sampling(k=4, max_new_tokens=30), seed=6)
    letters = Counter(a + b for c in free for a, b in zip(c.text, c.text[1:], strict=False) if (a + b).isascii())
    stop = letters.most_common(1)[0][0]
    cut = generate_completions(toy, PROMPTS, Sampling(k=4, max_new_tokens=30, stop=(stop, "!!never")), seed=6)
    for whole, short in zip(free, cut, strict=True):
        assert whole.token_ids[: len(short.token_ids)] == short.token_ids
        assert short.text == whole.text.split(stop)[0]
        assert (short.finish_reason == "stop") == (stop in whole.text)
        assert short.finish_reason == "length" or toy.tokenizer.decode(short.token_ids).endswith(stop)
    assert {c.finish_reason for c in cut} == {"stop", "length"}


def test_records_name_their_parents_and_come_in_input_order() -> None:
    toy, sampling = policy(), Sampling(k=3, max_new_tokens=5)
    answers = generate_completions(toy, PROMPTS, sampling, seed=8, round_=1, rows=6)
    assert [(c.prompt_id, c.index) for c in answers] == [(p.id, i) for p in PROMPTS for i in range(3)]
    assert len({c.id for c in answers}) == len(answers)
    first = answers[0]
    assert first.id == Completion.make_id(first.prompt_id, toy.lineage.id, sampling.settings, 8, 1, 0)
    assert (first.policy, first.round, first.seed) == (toy.lineage.id, 1, 8)


# --- Interruption ----------------------------------------------------------------------------------


class KilledAfter(FileJournal):
    """A journal whose process dies after so many appends."""

    def __init__(self, path: Path, appends: int) -> None:
        super().__init__(path)
        self.left = appends

    def append(self, key: str, value: Any) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        super().append(key, value)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Prompts per chunk decoded from now on."""
    sizes: list[int] = []
    original: Callable[..., Any] = generate_module.decode

    def spy(model: Any, prompts: Any, *rest: Any) -> Any:
        sizes.append(len(prompts))
        return original(model, prompts, *rest)

    monkeypatch.setattr(generate_module, "decode", spy)
    return sizes


def test_a_resumed_run_repeats_nothing_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, sampling = policy(), Sampling(k=2, max_new_tokens=20)
    whole = dump(generate_completions(toy, PROMPTS, sampling, seed=1, rows=4))
    with pytest.raises(KeyboardInterrupt):
        generate_completions(toy, PROMPTS, sampling, seed=1, rows=4, journal=KilledAfter(tmp_path / "j.jsonl", 1))
    sizes, shown = counted(monkeypatch), []

    @contextmanager
    def progress(label: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
        shown.append((label, total, unit, done))
        yield lambda n: shown.append(n)

    monkeypatch.setattr("prefloop.store.journal.progress", progress)
    journal = FileJournal(tmp_path / "j.jsonl")
    assert dump(generate_completions(toy, PROMPTS, sampling, seed=1, rows=4, journal=journal)) == whole
    assert sizes == [2, 2]
    assert shown == [("generate", 6, "prompts", 2), 2, 2]
    assert dump(generate_completions(toy, PROMPTS, sampling, seed=1, rows=4, journal=journal)) == whole
    assert sizes == [2, 2], "a finished journal decodes nothing"


@pytest.mark.parametrize("other", ["seed", "sampling", "policy", "round"])
def test_a_journal_of_other_settings_is_not_taken_up(
    other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, journal = policy(), FileJournal(tmp_path / "j.jsonl")
    generate_completions(toy, PROMPTS[:2], Sampling(k=2, max_new_tokens=4), seed=1, journal=journal)
    sizes = counted(monkeypatch)
    changed = Policy(toy.model, toy.tokenizer, Lineage("other"), "toy") if other == "policy" else toy
    generate_completions(
        changed,
        PROMPTS[:2],
        Sampling(k=2, max_new_tokens=4, temperature=0.5 if other == "sampling" else 1.0),
        seed=2 if other == "seed" else 1,
        round_=int(other == "round"),
        journal=journal,
    )
    assert sizes == [2]


# --- Refusals --------------------------------------------------------------------------------------


def test_a_prompt_without_room_for_an_answer_is_named() -> None:
    with pytest.raises(DataError, match=rf"{PROMPTS[5].id} has 40 tokens.*max_new_tokens=217.*context of 256"):
        generate_completions(policy(), PROMPTS, Sampling(k=1, max_new_tokens=217), seed=0)
    assert len(generate_completions(policy(), PROMPTS, Sampling(k=1, max_new_tokens=216), seed=0)) == 6


def test_a_repeated_prompt_is_refused() -> None:
    with pytest.raises(DataError, match=f"{PROMPTS[0].id} is there twice"):
        generate_completions(policy(), [PROMPTS[0], PROMPTS[0]], Sampling(max_new_tokens=8), seed=0)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(k=2, max_new_tokens=4),
        Sampling(top_p=0.9, max_new_tokens=4),
        Sampling(greedy=True, max_new_tokens=4),
    ],
)
def test_a_model_that_gives_no_numbers_is_reported(sampling: Sampling) -> None:
    toy = policy()
    toy.model.lm_head.weight.data[5, 5] = float("nan")
    with pytest.raises(ModelError, match="not a number"):
        generate_completions(toy, PROMPTS[:1], sampling, seed=0)


def test_no_prompts_give_no_answers() -> None:
    assert generate_completions(policy(), [], Sampling(), seed=0) == []


# --- The cache -------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_growing_layer_holds_what_the_library_layer_holds(random: Any) -> None:
    """Any mix of appending, repeating and dropping rows (in any order), beyond the spare room."""
    ours, theirs = growing_cache(CONFIGS["llama"]), DynamicCache(config=CONFIGS["llama"])
    rows, generator = random.randint(1, 3), torch.Generator().manual_seed(random.randint(0, 2**31))
    for turn in range(8):
        states = torch.randn(rows, 2, random.choice([1, 1, 1, 40]), 8, generator=generator)
        results = [cache.update(states, states + 1, 0) for cache in (ours, theirs)]
        assert all(torch.equal(mine, other) for mine, other in zip(*results, strict=True))
        assert ours.get_seq_length() == theirs.get_seq_length()
        repeats = random.randint(1, 3) if turn == 0 else 1
        kept = torch.tensor(random.sample(range(rows * repeats), random.randint(1, rows * repeats)))
        for cache in (ours.layers[0], theirs.layers[0]):
            cache.batch_repeat_interleave(repeats)
            cache.batch_select_indices(kept)
        rows = len(kept)


def test_dropping_rows_copies_only_the_rows_that_move() -> None:
    layer = GrowingLayer()
    layer.update(torch.arange(4.0).view(4, 1, 1, 1), torch.zeros(4, 1, 1, 1), 0)
    place = layer.keys.data_ptr()
    layer.batch_select_indices(torch.tensor([0, 3, 2]))
    assert layer.keys.flatten().tolist() == [0, 3, 2]
    assert layer.keys.data_ptr() == place


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_cache_bytes_are_those_of_the_librarys_cache(kind: str) -> None:
    toy = policy(kind)
    cache = toy.model(torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert cache_bytes(toy.model.config, 4) * 3 == held


def test_chunks_are_as_large_as_the_cache_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    toy, sizes = policy(), counted(monkeypatch)
    width = 40 + 8  # the longest prompt and the answer
    monkeypatch.setattr(generate_module, "CPU_CACHE_BYTES", 9 * width * cache_bytes(toy.model.config, 4))
    generate_completions(toy, PROMPTS, Sampling(k=4, max_new_tokens=8), seed=0)
    assert sizes == [2, 2, 2], "nine rows hold two prompts with four answers"
    sizes.clear()
    monkeypatch.setattr(generate_module, "CPU_CACHE_BYTES", 1)
    generate_completions(toy, PROMPTS[:2], Sampling(k=4, max_new_tokens=8), seed=0)
    assert sizes == [1, 1], "a prompt is never split"


def test_which_models_move_rows() -> None:
    movable = {kind: rows_can_move(growing_cache(config)) for kind, config in CONFIGS.items()}
    assert movable == {kind: kind != "convolution" for kind in CONFIGS}
