"""Self-rewarding: what a judging example says, the seed model, new prompts, the own judge, a round; killed and resumed."""

from __future__ import annotations

import doctest
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import prefloop
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from prefloop.config.loop import SelfRewardingConfig
from prefloop.config.recipe import PreferenceConfig, Recipe, load_recipe, parse_recipe
from prefloop.errors import ConfigError, DataError
from prefloop.evaluation.judge_quality import judge_quality
from prefloop.judging.prompts import JudgePrompt
from prefloop.judging.verdicts import read_score
from prefloop.loop import own_prompts, run_training, self_rewarding
from prefloop.loop.heads import Head
from prefloop.loop.launch import Launch
from prefloop.loop.own_prompts import draw_prompts
from prefloop.loop.seed_data import JudgingExample, read_judging, read_seed_data, rubric
from prefloop.loop.seed_model import seed_model, seed_prompts
from prefloop.loop.self_rewarding import examined_verdicts, own_judge, self_rewarding_round
from prefloop.models.load import Policy, load_policy
from prefloop.models.tokenizer import train_tokenizer
from prefloop.preferences.build import build_preferences
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.journal import FileJournal
from prefloop.store.run_folder import RunFolder
from prefloop.tasks.nba import seed_judgements
from prefloop.tasks.nba.names import person_name
from prefloop.tasks.nba.questions.grammar import SHARES, draw_family, draw_question
from prefloop.tasks.nba.questions.query import applicable, commit_fault
from prefloop.tasks.nba.questions.worlds import OpenWorld
from prefloop.tasks.nba.seed_judgements import CHECKS, balanced, failed_checks, judging_answer, score
from prefloop.tasks.nba.seed_questions import seed_examples
from prefloop.tasks.nba.task import team_words
from prefloop.tasks.nba.teams import teams
from prefloop.tasks.nba.text import normalised

SCORES = st.lists(st.integers(0, 5), min_size=1, max_size=60)
WORDS = "who scored the most points in the final game and how many rebounds did they get last season Score: 0 1 2 3 4 5"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


# --- judging examples ---

GOLD = (
    "SELECT ROUND(AVG(p.points), 1) FROM player_box_scores p JOIN games g USING (game_id) WHERE p.player_name = 'A B'"
    " AND g.season = 2023 AND g.game_type = 'Regular Season' AND p.did_not_play = 0"
)
ASKED = Prompt.create((), "nba-sql", "train", {"gold_sql": GOLD, "gold_plan": "average points."})


def objectives(
    correct: float = 0.0, valid: float = 1.0, reasoning: float = 1.0, verbosity: float = 1.0
) -> dict[str, float]:
    return {"correct": correct, "valid": valid, "reasoning": reasoning, "verbosity": verbosity}


def test_docstring_examples() -> None:
    found = doctest.testmod(seed_judgements)
    assert found.attempted >= 2
    assert not found.failed


@pytest.mark.parametrize(
    ("old", "new", "found", "failed"),
    [
        ("", "", objectives(1), ()),
        ("AVG(p.points)", "AVG(p.assists)", objectives(), ("columns", "result")),
        ("ROUND(AVG(p.points), 1)", "SUM(p.points)", objectives(), ("columns", "result")),
        ("2023", "2022", objectives(), ("filters", "result")),
        ("'A B'", "'C D'", objectives(), ("filters", "result")),
        (" AND p.did_not_play = 0", "", objectives(), ("filters", "result")),
        ("AVG(p.points), 1) FROM", "SUM(p.points), 1), g.season FROM", objectives(), ("columns", "result")),
        ("2023", "2023 /* a comment */", objectives(), ("result",)),
        ("SELECT ROUND", "SELECT 1.0 * ROUND", objectives(1), ()),  # another way, the same result
        ("2023", "2022", objectives(reasoning=0.8), ("filters", "result", "plan")),
        ("", "", objectives(1, verbosity=0.6), ("plan",)),
        ("SELECT", "SELEC", objectives(0, valid=0), CHECKS),
        ("", "", objectives(0, valid=0, reasoning=0), CHECKS),  # a refusal where there is a gold
    ],
)
def test_the_failed_checks_of_an_answer(old: str, new: str, found: dict[str, float], failed: tuple[str, ...]) -> None:
    answer = f"Plan: points.\n```sql\n{GOLD.replace(old, new) if old else GOLD}\n```"
    assert failed_checks(ASKED, answer, found) == failed


def test_a_planted_mistake_is_found_where_it_was_planted() -> None:
    """S1, F1, D1 and P1 change what narrows a query down, R1 and A1 what it computes."""
    rng, world = np.random.default_rng(5), OpenWorld(sorted(team.code for team in teams()), person_name)
    seen: Counter[str] = Counter()
    for _ in range(80):
        question = draw_question(rng, draw_family(rng, SHARES), world, team_words())
        if question.query is None:
            continue
        prompt = Prompt.create((), "nba-sql", "train", {"gold_sql": question.query.sql()})
        for fault in applicable(question.query):
            answer = f"Plan: x.\n```sql\n{commit_fault(question.query, fault).sql()}\n```"
            failed = failed_checks(prompt, answer, objectives())
            assert ("columns" if fault in ("R1", "A1") else "filters") in failed, (fault, answer)
            seen[fault] += 1
    assert len(seen) == 6


def test_a_right_answer_always_scores_above_a_wrong_one() -> None:
    grid = list(itertools.product((0.0, 1.0), (0.0, 1.0), (0.5, 1.0), (0.5, 1.0)))
    texts = [f"Plan: p.\n```sql\n{sql}\n```" for sql in (GOLD, GOLD.replace("2023", "2022"), "SELECT 1")]
    scores: dict[float, list[int]] = {0.0: [], 1.0: []}
    for text, values in itertools.product(texts, grid):
        found = objectives(*values)
        if found["correct"] <= found["valid"] and not (found["correct"] == 0 and text == texts[0]):
            scores[found["correct"]].append(score(failed_checks(ASKED, text, found)))
    assert min(scores[1.0]) > max(scores[0.0])


@given(st.sets(st.sampled_from(CHECKS)))
def test_a_reply_is_read_as_the_score_of_its_checks(failed: set[str]) -> None:
    reply = judging_answer(ASKED, [check for check in CHECKS if check in failed])
    assert read_score(reply) == score(sorted(failed)) == 5 - len(failed)


@given(SCORES, st.integers(1, 70))
def test_balanced_takes_as_evenly_as_there_are(scores: list[int], count: int) -> None:
    taken = balanced([(value, (value, i)) for i, value in enumerate(scores)], count, seed=1)
    assert len(taken) == len(set(taken)) == min(count, len(scores))
    there, got = Counter(scores), Counter(value for value, _ in taken)
    for scarce, plenty in itertools.permutations(there, 2):  # a score gives way only to one it has no fewer of
        assert got[scarce] == there[scarce] or got[plenty] <= got[scarce] + 1


def test_balanced_by_hand() -> None:
    """Of 1, 3 and 10 there are two places each for the first two: 1 and 2, and the rest goes to the third."""
    scored = [(0, "a")] + [(1, f"b{i}") for i in range(3)] + [(2, f"c{i}") for i in range(10)]
    taken = balanced(scored, 6, seed=3)
    assert Counter(item[0] for item in taken) == {"a": 1, "b": 2, "c": 3}
    assert balanced(scored, 6, seed=3) == taken


# --- seed questions ---


@pytest.mark.parametrize("right", [True, False])
def test_seed_answers_are_right_or_as_in_the_log(right: bool) -> None:
    first = seed_examples(60, 1, frozenset(), right=right)
    assert first == seed_examples(60, 1, frozenset(), right=right)
    questions = {normalised(question) for question, _ in first}
    assert len(questions) == 60
    again = seed_examples(60, 1, frozenset(questions), right=right)
    assert not questions & {normalised(question) for question, _ in again}
    rambling = sum("step by step" in answer or "details of the data" in answer for _, answer in first)
    assert (rambling == 0) == right


# --- the user's own seed data ---


def judging_row(number: int, group: str, value: int) -> dict[str, Any]:
    turns = [
        {"role": "user", "content": f"judge {number}"},
        {"role": "assistant", "content": f"points\nScore: {value}"},
    ]
    return {"messages": turns, "group": group}


def own_seed_data(folder: Path, judging: Sequence[Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    answering = [
        {"messages": [{"role": "user", "content": f"how many points {i}"}, {"role": "assistant", "content": "most"}]}
        for i in range(12)
    ]
    for name, rows in (("ift", answering), ("eft", judging)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def test_own_data_is_split_by_group_and_balanced(tmp_path: Path) -> None:
    rows = [judging_row(i, f"g{i // 3}", 4 if i % 6 else 2) for i in range(30)]
    config = SelfRewardingConfig(instructions=5, judged=8, examined=4, seed_data=own_seed_data(tmp_path, rows))
    data = read_seed_data(config, tmp_path, seed=1)
    assert len(data.answering) == 5
    assert len(data.examined) == 6  # whole groups of three: the fewest that hold four
    assert not {e.group for e in data.examined} & {e.group for e in data.judging}
    assert Counter(e.score for e in data.judging) == {2: 4, 4: 4}
    assert read_seed_data(config, tmp_path, seed=1) == data
    assert read_seed_data(config, tmp_path, seed=2) != data


def test_too_little_own_data_is_refused(tmp_path: Path) -> None:
    rows = [judging_row(i, f"g{i}", 3) for i in range(4)]
    config = SelfRewardingConfig(examined=4, seed_data=own_seed_data(tmp_path, rows))
    with pytest.raises(DataError, match=r"has 4 rows of 4 groups, and loop.examined=4 leaves none"):
        read_seed_data(config, tmp_path, seed=1)


@pytest.mark.parametrize(
    "row",
    [
        [],
        {"messages": "Score: 3"},
        {"messages": [{"role": "assistant", "content": "Score: 3"}]},
        {"messages": [{"role": "user", "content": "judge"}, {"role": "assistant", "content": "Score: 7"}]},
        {"messages": [{"role": "user", "content": "judge"}, {"role": "assistant", "content": "Score: 3\nor 4"}]},
        {**judging_row(1, "g", 3), "correct": "yes"},
    ],
)
def test_a_bad_judging_row_is_named(tmp_path: Path, row: Any) -> None:
    own_seed_data(tmp_path, [row])
    with pytest.raises(DataError, match=r"no usable judging example \(row 1: "):
        read_judging(tmp_path / "eft.jsonl")
    own_seed_data(tmp_path, [row, judging_row(2, "g", 3)])
    assert [example.score for example in read_judging(tmp_path / "eft.jsonl")] == [3]


def test_an_example_is_the_same_after_its_row_was_read(tmp_path: Path) -> None:
    example = JudgingExample(({"role": "user", "content": "judge"},), "p\nScore: 2", "group", "template", 1.0)
    own_seed_data(tmp_path, [example.row()])
    assert read_judging(tmp_path / "eft.jsonl") == [example]


def test_options_without_effect_are_refused(tmp_path: Path) -> None:
    for loop, message in (
        ({"seed_data": str(tmp_path), "written": 3}, "written: no effect with seed_data"),
        ({"shots": 2, "shots_generated": 3}, "shots_generated is at most shots"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_recipe({"loop": {"name": "self-rewarding", **loop}})
    with pytest.raises(ConfigError, match=r"length_tolerance: has no effect with preferences.strategy=all-pairs"):
        parse_recipe({"preferences": {"strategy": "all-pairs", "length_tolerance": 1}})


# --- a model small enough to train here ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer([WORDS] * 3, 300, 512)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=512,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def policy(model: Path) -> Policy:
    return load_policy(model, device="cpu")


def recipe_of(model: Path, data: Path, **loop: Any) -> Recipe:
    sft = {"method": "full", "learning_rate": 5e-3, "epochs": 3, "batch_examples": 4, "checkpoint_every": 5}
    given = {
        "examined": 4,
        "judged": 30,
        "prompts": 6,
        "prompt_tokens": 10,
        "judge_tokens": 8,
        "rouge": 1.0,
        "shots": 3,
    }
    given = {"name": "self-rewarding", "seed_data": str(data), "sft": sft, "rounds": 1, **given, **loop}
    return parse_recipe(
        {
            "task": {"name": "instructions"},
            "policy": {"model": str(model), "device": "cpu"},
            "generation": {"k": 4, "max_new_tokens": 12},
            "training": {"epochs": 1, "learning_rate": 1e-4, "lora_rank": 2},
            "judge": "llm",
            "loop": given,
        }
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A judge that counts: an answer of n times "most" scores n."""
    rows = []
    for number, value in itertools.product(range(8), range(1, 5)):
        text = f"how many {number} {'most ' * value}"
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": f"Score: {value}"}]
        rows.append({"messages": turns, "group": str(number), "correct": float(value > 2)})
    return own_seed_data(tmp_path / "data", rows)


def opened(recipe: Recipe, root: Path) -> Any:
    return RunFolder.open(root, {"recipe": recipe.settings}, resume=True)


def contents(root: Path) -> dict[str, bytes]:
    skipped = {"log.jsonl", ".lock", "adapter_config.json"}  # the last names its base by path, for PEFT
    found = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name not in skipped]
    return {str(path.relative_to(root)): path.read_bytes() for path in found if "work" not in path.parts}


# --- the seed model ---


def test_the_seed_model_is_made_once_and_taken_up_where_it_stopped(model: Path, data: Path, tmp_path: Path) -> None:
    recipe = recipe_of(model, data)
    with opened(recipe, tmp_path / "whole") as folder:
        out = seed_model(recipe, folder)
        assert out == folder.root / "seed" / "model"
        figures = json.loads((folder.root / "seed" / "seed.json").read_text())
        assert figures["instructions"] == 12
        assert figures["examined"]["examples"] == 4
        assert figures["judged"] == {"examples": 28, "scores": {"1": 7, "2": 7, "3": 7, "4": 7}}
        assert figures["training"]["steps"] == 3 * 10  # 40 examples, 4 a step
        assert seed_prompts(recipe, folder)[0].task == "instructions"
        first = contents(folder.root)
        seed_model(recipe, folder)
        assert contents(folder.root) == first
    assert load_policy(out, device="cpu").lineage.id != load_policy(model, device="cpu").lineage.id
    with opened(recipe, tmp_path / "killed") as folder:
        seed_model(recipe, folder)
        for name in ("seed.json", "model/training.json", "model/model.safetensors", "examined.jsonl", "eft.jsonl"):
            (folder.root / "seed" / name).unlink()
        seed_model(recipe, folder)
        assert contents(folder.root) == first


def test_processes_are_handed_the_examples_that_would_be_learned_here(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(model, data)
    for name, launch in (("here", None), ("there", Launch(2))):
        monkeypatch.setattr(run_training, "start", lambda launch, config, words, **_: prefloop(*words))
        with opened(recipe, tmp_path / name) as folder:
            seed_model(recipe, folder, launch)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_an_adapter_becomes_a_whole_model(model: Path, data: Path, tmp_path: Path) -> None:
    recipe = recipe_of(model, data, sft={"method": "lora", "lora_rank": 2, "epochs": 1})
    with opened(recipe, tmp_path / "run") as folder:
        out = seed_model(recipe, folder)
        assert (out / "model.safetensors").exists()
        assert not (out / "adapter_model.safetensors").exists()
        assert load_policy(out, device="cpu").lineage.adapters == ()
        first = contents(folder.root)
        (folder.root / "seed" / "seed.json").unlink()
        seed_model(recipe, folder)
        assert contents(folder.root) == first


def test_a_task_without_seeds_asks_for_a_folder(model: Path, tmp_path: Path) -> None:
    recipe = parse_recipe({"task": "instructions", "judge": "llm", "loop": "self-rewarding"})
    with opened(recipe, tmp_path / "run") as folder, pytest.raises(ConfigError, match=r"seed_data.*name a folder"):
        seed_model(recipe, folder)


def test_the_nba_seed_is_made_of_the_policys_own_answers(
    tmp_path: Path, leagues: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefloop.tasks.nba.task.BATCH", 24)
    recipe = parse_recipe(
        {
            "generation": {"max_new_tokens": 120},
            "task": {"test_questions": 20},
            "loop": {
                "name": "self-rewarding",
                "instructions": 14,
                "judged": 12,
                "examined": 5,
                "seed_questions": 9,
                "seed_samples": 2,
                "written": 3,
                "sft": {"method": "full", "epochs": 1, "dtype": "bfloat16"},
            },
        }
    )
    with opened(recipe, tmp_path / "run") as folder:
        policy = load_policy(seed_model(recipe, folder), device="cpu")
        found = read_judging(folder.root / "seed" / "eft.jsonl")
        held = read_judging(folder.root / "seed" / "examined.jsonl")
        writing = [json.loads(line) for line in (folder.root / "seed" / "writing.jsonl").read_text().splitlines()]
        figures = json.loads((folder.root / "seed" / "seed.json").read_text())
    assert 6 < len(found) <= 12
    assert 0 < len(held) <= 5
    assert not {e.group for e in found} & {e.group for e in held}
    assert all(e.correct is not None and (e.correct == 1) == (e.score >= 4) for e in [*found, *held])
    assert figures["audit"]["questions"] == 9
    assert all(row["messages"][0]["content"].count("\n8. ") == 1 for row in writing)
    asked = JudgePrompt.load("rubric", rubric(recipe.loop)).text.split("\n")[0]
    assert all(e.messages[0]["content"].startswith(asked) for e in found)
    longest = max(len(policy.tokenizer(e.messages[0]["content"])["input_ids"]) for e in found)
    assert longest + 256 < 2_048


# --- new prompts ---


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[str]], list[Prompt]]:
    """Replies in place of a model's; what it was asked."""

    def script(replies: Iterator[str]) -> list[Prompt]:
        asked: list[Prompt] = []

        def answer(policy: Any, prompts: Sequence[Prompt], sampling: Any, **_: Any) -> list[Completion]:
            asked.extend(prompts)
            texts = [next(replies) for _ in prompts]
            return [
                Completion(f"{p.id}/0", p.id, 0, 1, t, (), (), "length" if t == "CUT" else "stop", "p", {}, 1)
                for p, t in zip(prompts, texts, strict=True)
            ]

        monkeypatch.setattr(own_prompts, "generate_completions", answer)
        return asked

    return script


def seeds(count: int = 30, system: str = "") -> list[Prompt]:
    before = ({"role": "system", "content": system},) if system else ()
    return [
        Prompt.create((*before, {"role": "user", "content": f"seed question number {i} here"}), "toy", "train")
        for i in range(count)
    ]


def drawn(count: int, **rest: Any) -> tuple[list[Prompt], dict[str, int]]:
    config = SelfRewardingConfig(rouge=rest.pop("rouge", 1.0), **rest.pop("config", {}))
    given = {"seed": 1, "round_": 1, **rest}
    return draw_prompts(None, given.pop("seeds", seeds()), count, config, **given)


def test_new_prompts_are_counted_with_every_drop(scripted: Any) -> None:
    new = itertools.count()
    kinds = itertools.cycle(["new", "new", "seed question number 3 here", "what the test asks", "CUT", "- no"])
    scripted(f"a new one is {next(new)}" if kind == "new" else kind for kind in kinds)
    prompts, counts = drawn(300, avoid=["What the TEST asks?"], seeds=seeds(system="Answer."))
    assert len({p.id for p in prompts}) == counts["kept"] == 300
    assert counts["written"] >= 900
    assert counts["repeated"] == counts["question of the evaluation"] == counts["empty, or begins with a mark"]
    assert counts["unfinished"] >= counts["repeated"]
    assert {p.task for p in prompts} == {"toy"}
    assert all(p.messages[0] == {"role": "system", "content": "Answer."} and p.split == "train" for p in prompts)
    assert all(p.meta["question"] == p.messages[-1]["content"] for p in prompts)


def test_shots_are_six_seeds_and_two_generated_as_soon_as_there_are_two(scripted: Any) -> None:
    new = itertools.count()
    asked = scripted(f"brand new {next(new)} of mine" for _ in itertools.count())
    drawn(400)

    def generated(prompt: Prompt) -> int:
        return prompt.messages[0]["content"].count("brand new")

    assert {generated(p) for p in asked[: own_prompts.BATCH]} == {0}
    assert {generated(p) for p in asked[own_prompts.BATCH :]} == {2}
    assert all(p.messages[0]["content"].count("\n8. ") == 1 for p in asked)


def test_earlier_rounds_are_known_and_serve_as_shots(scripted: Any) -> None:
    earlier = [
        Prompt.create(({"role": "user", "content": f"asked in round {i} already"},), "toy", "train") for i in (1, 2)
    ]
    asked = scripted(iter(lambda: "asked in round 1 already", None))
    prompts, counts = drawn(5, earlier=earlier)
    assert prompts == []
    assert counts["repeated"] == counts["written"] == own_prompts.PATIENCE * len(asked) / own_prompts.PATIENCE
    assert all("asked in round 2 already" in p.messages[0]["content"] for p in asked)


def test_a_model_with_nothing_new_to_say_is_stopped(scripted: Any) -> None:
    asked = scripted(iter(lambda: "always the same question", None))
    prompts, counts = drawn(50)
    assert len(prompts) == 1
    assert counts["kept"] == 1
    assert len(asked) <= (own_prompts.PATIENCE + 1) * own_prompts.BATCH


def test_a_prompt_that_tries_to_be_a_placeholder_stays_text(scripted: Any) -> None:
    scripted(f"ask {{shots}} of {{prompt}} {i}" for i in itertools.count())
    prompts, _ = drawn(3)
    assert "{shots} of {prompt}" in prompts[0].messages[-1]["content"]


def test_drawing_goes_on_from_its_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded policy answers in place of asking, which is new to the filter all the same."""
    policy = load_policy("embedded", device="cpu")
    config = SelfRewardingConfig(rouge=1.0, prompt_tokens=120, shots=3)
    monkeypatch.setattr(own_prompts, "BATCH", 6)

    def draw(journal: FileJournal | None) -> tuple[list[Prompt], dict[str, int]]:
        return draw_prompts(policy, seeds(), 4, config, seed=1, round_=1, journal=journal)

    whole = draw(None)
    assert len(whole[0]) == 4
    journal = FileJournal(tmp_path / "journal.jsonl")
    assert draw(journal) == whole
    assert journal.entries()
    monkeypatch.setattr("prefloop.generation.generate.decoded", lambda *_: pytest.fail("written again"))
    assert draw(FileJournal(tmp_path / "journal.jsonl")) == whole


# --- the model as its own judge ---


def completions(prompt: Prompt, *texts: str) -> list[Completion]:
    return [Completion(f"{prompt.id}/{i}", prompt.id, i, 1, t, (), (), "stop", "p", {}, 1) for i, t in enumerate(texts)]


def test_a_judge_that_learned_to_count_is_worth_something(model: Path, data: Path, tmp_path: Path) -> None:
    """From rows to a figure: the trained model scores the examples kept apart, better than a coin and than before."""
    recipe = recipe_of(model, data, sft={"method": "full", "learning_rate": 1e-2, "epochs": 25, "batch_examples": 4})
    assert isinstance(recipe.loop, SelfRewardingConfig)
    with opened(recipe, tmp_path / "run") as folder:
        taught = load_policy(seed_model(recipe, folder), device="cpu")
        examples = read_judging(folder.root / "seed" / "eft.jsonl")
    truth = [example.truth for example in examples]
    before = judge_quality(examined_verdicts(load_policy(model, device="cpu"), examples, recipe.loop, 1), truth, {})
    after = judge_quality(examined_verdicts(taught, examples, recipe.loop, 1), truth, {})
    assert before["unscored"] == len(examples)  # an untrained model writes no score
    assert before["accuracy"] is None or before["accuracy"]["n"] == 0
    assert after["unscored"] < len(examples) / 4
    assert after["accuracy"]["ci_low"] > 0.5
    assert after["ranked"]["estimate"] > 0.7


def test_a_question_beyond_the_context_stays_unscored(policy: Policy) -> None:
    config = SelfRewardingConfig(judge_tokens=16)
    long = JudgingExample(({"role": "user", "content": "points " * 600},), "Score: 3", "g", "t")
    short = JudgingExample(({"role": "user", "content": "points"},), "Score: 3", "g", "t")
    found = examined_verdicts(policy, [long, short], config, 1)
    assert found[0].value is None
    assert len(found) == 2


def test_the_own_judge_asks_by_the_rubric_and_averages(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Prompt] = []

    def replies(_: Policy, prompts: Sequence[Prompt], sampling: Any, **__: Any) -> list[Completion]:
        asked.extend(prompts)
        texts = ["fine\nScore: 5", "Score: 2", "Score: 9"]
        assert (sampling.k, sampling.temperature, sampling.max_new_tokens) == (3, 1.0, 99)
        return [
            Completion("", p.id, i, 0, texts[i], (1,), (0.0,), "stop", "", {}, 1) for p in prompts for i in range(3)
        ]

    monkeypatch.setattr("prefloop.generation.generate.generate_completions", replies)
    prompt = Prompt.create(({"role": "user", "content": "how many"},), "toy", "train")
    with own_judge(policy, SelfRewardingConfig(judge_tokens=99), seed=1) as judge:
        (judgement,) = judge.judge([prompt], completions(prompt, "most"))
    assert judgement.value == 3.5  # the third verdict is unreadable: it is left out, not a 0
    assert asked[0].messages[0]["content"].startswith("Score the answer from 0 to 5.")


def test_the_rubric_is_the_tasks_or_the_users_or_the_general_one(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    assert rubric(SelfRewardingConfig()).name == "rubric-sql.txt"
    assert rubric(SelfRewardingConfig(seed_data=tmp_path)).name == "rubric.txt"
    assert rubric(SelfRewardingConfig(seed_data=tmp_path, rubric=mine)) == mine
    for config in (SelfRewardingConfig(), SelfRewardingConfig(seed_data=tmp_path)):
        JudgePrompt.load("rubric", rubric(config))


# --- figures ---


def scores(*rows: tuple[str, float | None, float, float]) -> tuple[list[Judgement], list[Judgement]]:
    """(prompt, judge's score, true score, right) per answer."""
    own, truth = [], []
    for i, (prompt, value, true, right) in enumerate(rows):
        own.append(Judgement.create(prompt, (f"{i}",), "own", "score", value))
        truth.append(Judgement.create(prompt, (f"{i}",), "seed", "score", true, {"correct": right}))
    return own, truth


def test_the_quality_of_a_judge_by_hand() -> None:
    """Prompt a: 5 > 3 > 1 as in truth (3 pairs right, 2 of them right against wrong). Prompt b: a tie where truth
    tells two apart (half), and an unscored third. Prompt c: truth ties, so no pair; its 5 is among the best."""
    own, truth = scores(
        ("a", 5, 4, 1), ("a", 3, 2, 0), ("a", 1, 1, 0),
        ("b", 5, 2, 0), ("b", 5, 5, 1), ("b", None, 1, 0),
        ("c", 5, 3, 0), ("c", 2, 3, 0),
    )  # fmt: skip
    found = judge_quality(own, truth, {"a": "s", "b": "t"})
    assert found["answers"] == 8
    assert (found["accuracy"]["estimate"], found["accuracy"]["n"]) == (pytest.approx(2.5 / 3), 3)
    assert (found["ranked"]["estimate"], found["ranked"]["n"]) == (pytest.approx(3.5 / 4), 4)
    assert found["ranked"]["ci_low"] <= 3.5 / 4 <= found["ranked"]["ci_high"]
    assert found["spearman"] == pytest.approx(1.0)  # prompt a alone varies on both sides
    assert found["exact_match"] == 0.5
    assert found["five_best"] == 0.75  # a's, one of b's, c's
    assert found["unscored"] == 1
    assert found["maximum_share"] == pytest.approx(4 / 7)
    assert found["tie_rate"] == pytest.approx(1 / 5)


def test_intervals_are_clustered_by_template() -> None:
    own, truth = scores(*((f"p{i}", float(1 + (i % 2) * j), float(j), float(j)) for i in range(8) for j in (0, 1)))
    apart = judge_quality(own, truth, {f"p{i}": f"t{i}" for i in range(8)})["accuracy"]
    together = judge_quality(own, truth, {f"p{i}": f"t{i % 2}" for i in range(8)})["accuracy"]
    assert apart["estimate"] == together["estimate"] == 0.75  # half right, half tied
    assert together["ci_high"] - together["ci_low"] > apart["ci_high"] - apart["ci_low"]


def test_without_truth_of_right_and_wrong_only_ranks_are_compared() -> None:
    own = [Judgement.create(p, (f"{p}{i}",), "own", "score", float(i)) for p in "ab" for i in range(3)]
    truth = [Judgement.create(p, (f"{p}{i}",), "seed", "score", float(-i)) for p in "ab" for i in range(3)]
    found = judge_quality(own, truth, {})
    assert found["accuracy"] is None
    assert (found["ranked"]["estimate"], found["spearman"], found["exact_match"]) == (0.0, pytest.approx(-1.0), 0.0)
    assert judge_quality([], [], {})["ranked"] is None


# --- pairs ---


def tolerant(values: Sequence[tuple[float, int]], tolerance: float | None, **rest: Any) -> list[tuple[int, int]]:
    """Pairs as indices of answers, each given by score and length."""
    prompt = Prompt.create(({"role": "user", "content": "q"},), "toy", "train")
    answers = completions(prompt, *(f"{chr(97 + i)}" * length for i, (_, length) in enumerate(values)))
    judged = [
        Judgement.create(prompt.id, (a.id,), "own", "score", v) for a, (v, _) in zip(answers, values, strict=True)
    ]
    config = PreferenceConfig(length_tolerance=tolerance, **rest)
    found = build_preferences([prompt], answers, judged, config, seed=1).preferences
    return [(int(p.chosen.split("/")[1]), int(p.rejected.split("/")[1])) for p in found]


@pytest.mark.parametrize(
    ("values", "tolerance", "pairs"),
    [
        ([(5, 9), (4.5, 3), (2, 4), (1, 2)], None, [(0, 3)]),
        ([(5, 9), (4.5, 3), (2, 4), (1, 2)], 0.0, [(0, 3)]),
        ([(5, 9), (4.5, 3), (2, 4), (1, 2)], 0.5, [(1, 3)]),
        ([(5, 9), (4.5, 3), (2, 4), (1, 2)], 1.0, [(1, 2)]),
        ([(5, 9), (5, 3), (5, 6)], 1.0, []),  # a tie stays a tie
        ([(5, 3), (4, 9)], 2.0, [(0, 1)]),
        ([(5, 9), (4, 3)], 2.0, [(0, 1)]),  # the shortest is the worst: nothing is below it
    ],
)
def test_of_nearly_equal_answers_the_shortest_is_chosen_and_the_longest_rejected(
    values: list[tuple[float, int]], tolerance: float | None, pairs: list[tuple[int, int]]
) -> None:
    assert tolerant(values, tolerance) == pairs


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=2, max_size=8), st.integers(0, 5))
def test_with_any_tolerance_the_chosen_scores_higher_and_no_answer_serves_twice(
    values: list[tuple[float, int]], tolerance: int
) -> None:
    pairs = tolerant(values, tolerance, pairs_per_prompt=3)
    assert all(values[chosen][0] > values[rejected][0] for chosen, rejected in pairs)
    assert len({i for pair in pairs for i in pair}) == 2 * len(pairs)
    assert bool(pairs) == bool(tolerant(values, None))


# --- a round ---


class LongerIsBetter:
    """A judge that scores by length."""

    name = "length"

    def __enter__(self) -> LongerIsBetter:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def judge(self, prompts: Any, answers: Sequence[Completion], **_: Any) -> list[Judgement]:
        return [Judgement.create(a.prompt_id, (a.id,), self.name, "score", min(5.0, len(a.text) / 10)) for a in answers]


def of_growing_length(
    recipe: Recipe, folder: RunFolder, number: int, head: Head, prompts: list[Prompt]
) -> list[Completion]:
    return [answer for prompt in prompts for answer in completions(prompt, "most", "most points", "most points in the")]


def test_a_round_without_a_new_prompt_says_why(model: Path, data: Path, tmp_path: Path, scripted: Any) -> None:
    recipe = recipe_of(model, data, sft={"method": "full", "epochs": 1})
    scripted(itertools.repeat("- no"))
    with opened(recipe, tmp_path / "run") as folder:
        start = Head(recipe.policy, str(seed_model(recipe, folder)))
        with pytest.raises(DataError, match=r"no new prompt .*\d+ empty, or begins with a mark"):
            self_rewarding_round(recipe, folder, folder.inner("rounds/1"), 1, start, start, [], [])


def test_a_round_goes_from_its_own_prompts_to_a_checkpoint_and_resumes(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scripted: Any
) -> None:
    recipe = recipe_of(model, data)
    monkeypatch.setattr(self_rewarding, "own_judge", lambda *_: LongerIsBetter())
    monkeypatch.setattr(self_rewarding, "candidates", of_growing_length)
    test = [Prompt.create(({"role": "user", "content": "what the test asks"},), "toy", "test")]
    runs = []
    for name in ("whole", "killed"):
        scripted(f"how many points did {number} score" for number in itertools.count())
        with opened(recipe, tmp_path / name) as folder:
            start = Head(recipe.policy, str(seed_model(recipe, folder)))
            place = folder.inner("rounds/1")
            outcome = self_rewarding_round(recipe, folder, place, 1, start, start, [], test)
            if name == "killed":
                for lost in ("preferences.parquet", "checkpoint/training.json", "stages/examined-judgements.parquet"):
                    (place.root / lost).unlink()
                outcome = self_rewarding_round(recipe, folder, place, 1, start, start, [], test)
            runs.append((contents(place.root), outcome.data, outcome.judge, outcome.training))
            if name == "whole":
                second = folder.inner("rounds/2")
                again = self_rewarding_round(recipe, folder, second, 2, start, outcome.head, [place], test)
                asked = [{p.messages[-1]["content"] for p in found.prompts} for found in (outcome, again)]
                assert not asked[0] & asked[1]
                long = folder.inner("baselines/long"), 0, start, start.load_merged(), 2 * recipe.loop.prompts, (), test
                prompts, answers, verdicts, _ = self_rewarding.own_labels(recipe, folder, *long)
                assert len(prompts) == 2 * recipe.loop.prompts == 2 * len(asked[0])
                assert len(answers) == len(verdicts) == 3 * len(prompts)
    assert runs[0] == runs[1]
    figures = runs[0][1]
    assert figures["new_prompts"]["kept"] == figures["prompts"] > 0
    assert figures["pairs"] == figures["prompts"]
    assert set(runs[0][2]) >= {"name", "accuracy", "maximum_share", "tie_rate", "spread", "examined"}


def test_the_shipped_recipe_is_a_self_rewarding_loop() -> None:
    recipe = load_recipe("self-rewarding")
    assert isinstance(recipe.loop, SelfRewardingConfig)
    assert (recipe.generation.k, recipe.generation.temperature, recipe.generation.top_p) == (4, 0.7, 0.9)
    assert recipe.training.reference == "previous"
