"""What the seed model of self-rewarding learns from: answering (IFT), judging (EFT), writing prompts.

Either the user's own ``ift.jsonl`` and ``eft.jsonl``, or made from the nba-sql task: people's judgements are then
execution's, of the policy's own answers to seed questions and of gold answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from prefloop.config.loop import SelfRewardingConfig
from prefloop.config.recipe import Recipe
from prefloop.config.sampling import Sampling
from prefloop.config.tasks import NbaTaskConfig
from prefloop.errors import ConfigError, DataError
from prefloop.generation.generate import generate_completions
from prefloop.judging.prompts import JudgePrompt, conversation
from prefloop.judging.verdicts import read_score
from prefloop.loop.policies import initial_source, writer_of
from prefloop.loop.run import execution_judge
from prefloop.preferences.instructions import Example, read_instructions
from prefloop.preferences.new_prompts import asking_for_one
from prefloop.preferences.rows import BadRowError, read_messages, read_rows
from prefloop.progress import note
from prefloop.records import Completion, Judgement, Message, Prompt, content_id
from prefloop.store.run_folder import RunFolder
from prefloop.tasks.nba.answers import render_answer
from prefloop.tasks.nba.prompting import system_message
from prefloop.tasks.nba.seed_judgements import balanced, failed_checks, judging_answer, score
from prefloop.tasks.nba.seed_questions import seed_examples
from prefloop.tasks.nba.task import judge_databases, test_prompts, train_prompts
from prefloop.tasks.nba.text import normalised

PROMPTS = Path(__file__).parent.parent / "judging" / "prompts"


@dataclass(frozen=True)
class JudgingExample:
    """A judge's question with a good reply, and what examines other replies to it."""

    messages: tuple[Message, ...]
    reply: str
    group: str
    """The prompt that was answered: answers of one group can be compared."""
    template: str
    """What intervals are clustered by."""
    correct: float | None = None
    """By execution, where that can tell."""

    @property
    def id(self) -> str:
        """Hash of the question."""
        return content_id("judging example", self.group, list(self.messages))

    @property
    def score(self) -> int:
        """What the good reply gives."""
        found = read_score(self.reply)
        assert found is not None
        return found

    @property
    def truth(self) -> Judgement:
        """The good reply as a judgement."""
        objectives = {} if self.correct is None else {"correct": self.correct}
        return Judgement.create(self.group, (self.id,), "seed", "score", float(self.score), objectives)

    def row(self) -> dict[str, Any]:
        """As it stands in ``eft.jsonl``."""
        turns = [*self.messages, {"role": "assistant", "content": self.reply}]
        rest = {key: value for key, value in asdict(self).items() if key not in ("messages", "reply")}
        return {"messages": turns, **rest}


@dataclass(frozen=True)
class SeedData:
    """Everything the seed model learns from, and the judging examples kept from it."""

    answering: list[Example]
    judging: list[JudgingExample]
    writing: list[Example]
    examined: list[JudgingExample]
    audit: dict[str, Any]


def rubric(config: SelfRewardingConfig) -> Path:
    """The text in which the model is asked to judge."""
    return config.rubric or PROMPTS / ("rubric.txt" if config.seed_data else "rubric-sql.txt")


def read_seed_data(config: SelfRewardingConfig, folder: Path, seed: int) -> SeedData:
    """The user's own data: as many rows as the settings ask for, chosen by the seed.

    Raises:
        DataError: a file is missing, or has too few usable rows.
    """
    rng = Random(content_id("seed data", seed))
    answering = list(read_instructions(folder / "ift.jsonl").examples)
    answering = rng.sample(answering, min(config.instructions, len(answering)))
    known = read_judging(folder / "eft.jsonl")
    groups = sorted({example.group for example in known})
    rng.shuffle(groups)
    held: set[str] = set()
    for group in groups:
        if sum(example.group in held for example in known) >= config.examined:
            break
        held.add(group)
    examined = [example for example in known if example.group in held]
    rest = [example for example in known if example.group not in held]
    if not rest:
        raise DataError(
            f"{folder / 'eft.jsonl'} has {len(known):,} rows of {len(groups):,} groups, and loop.examined="
            f"{config.examined} leaves none to learn from: lower it"
        )
    judging = balanced([(example.score, example) for example in rest], config.judged, seed)
    return SeedData(answering, judging, [], examined, {})


def read_judging(path: Path) -> list[JudgingExample]:
    """Rows with ``messages`` whose last, the assistant's, ends in ``Score: N``.

    A row may name its ``group`` (the prompt that was answered; without one it stands alone), its ``template`` and
    whether the answer is ``correct``.

    Raises:
        DataError: the file is missing or has no usable row.
    """
    found, bad = [], []
    for line, row in read_rows(path):
        try:
            found.append(_judging(row))
        except BadRowError as error:
            bad.append(f"row {line}: {error}")
    if not found:
        raise DataError(f"{path} has no usable judging example ({'; '.join(bad[:3]) or 'it is empty'})")
    for reason in bad[:5]:
        note(f"{path.name}, {reason}")
    return found


def _judging(row: Any) -> JudgingExample:
    if not isinstance(row, dict):
        raise BadRowError("not a JSON object")
    *messages, last = read_messages(row.get("messages"), "messages")
    if not messages or last["role"] != "assistant" or read_score(last["content"]) is None:
        raise BadRowError("the last message is no assistant's that ends in a line 'Score: N' with N from 0 to 5")
    group = str(row.get("group") or content_id("alone", messages, last))
    correct = row.get("correct")
    if not isinstance(correct, int | float | None):
        raise BadRowError("correct is no number")
    return JudgingExample(tuple(messages), last["content"], group, str(row.get("template") or group), correct)


def make_seed_data(recipe: Recipe, config: SelfRewardingConfig, folder: RunFolder, test: Sequence[str]) -> SeedData:
    """Examples of the nba-sql task; none of their questions is in `test`, none of their templates is held out.

    Raises:
        ConfigError: another task has no seeds; or all seed questions would be examined.
    """
    if not isinstance(recipe.task, NbaTaskConfig):
        raise ConfigError(f"loop.seed_data: task.name={recipe.task.name} has no seeds of its own: name a folder")
    taken = {normalised(text) for text in test}
    written = seed_examples(config.instructions, recipe.seed, frozenset(taken), right=config.seed_answers == "right")
    answering = [(_asked(recipe.task, question), answer) for question, answer in written]
    writing = _writing([question for question, _ in written], config, recipe.seed)
    judging, examined, audit = _judged(recipe, config, folder, taken)
    return SeedData(answering, judging, writing, examined, audit)


def _asked(task: NbaTaskConfig, question: str) -> tuple[Message, ...]:
    system = system_message(task.schema_in_prompt)
    before: list[Message] = [{"role": "system", "content": system}] if system else []
    return (*before, {"role": "user", "content": question})


def _writing(questions: Sequence[str], config: SelfRewardingConfig, seed: int) -> list[Example]:
    """Some questions, and one more as the answer."""
    if config.written and len(questions) <= config.shots:
        raise ConfigError(f"loop.written: {len(questions)} instructions are too few to show {config.shots} and add one")
    rng = Random(content_id("writing", seed))
    found = []
    for _ in range(config.written):
        *shots, new = rng.sample(questions, config.shots + 1)
        found.append((asking_for_one(shots), new))
    return found


def _judged(
    recipe: Recipe, config: SelfRewardingConfig, folder: RunFolder, taken: set[str]
) -> tuple[list[JudgingExample], list[JudgingExample], dict[str, Any]]:
    """Answers to seed questions with their judgements: those to learn from and those to examine."""
    held = -(-config.examined // config.seed_samples)
    if held >= config.seed_questions:
        raise ConfigError(
            f"loop.examined={config.examined} takes {held} seed questions with {config.seed_samples} answers each, "
            f"and there are {config.seed_questions}: raise loop.seed_questions"
        )
    prompts, answers, verdicts = _answered(recipe, config, folder, taken)
    order = sorted(prompts, key=lambda prompt: prompt.id)  # by hash: no kind of question is held out more than another
    kept = {prompt.id for prompt in order[:held]}
    found = _examples(JudgePrompt.load("rubric", rubric(config)), order, answers, verdicts, kept)
    examined = [example for example in found if example.group in kept][: config.examined]
    pool = [(example.score, example) for example in found if example.group not in kept]
    audit = {"answers to learn from": len(pool), "questions": len(prompts), "questions examined": held}
    return balanced(pool, config.judged, recipe.seed), examined, audit


def _answered(
    recipe: Recipe, config: SelfRewardingConfig, folder: RunFolder, taken: set[str]
) -> tuple[list[Prompt], list[Completion], Mapping[str, Judgement]]:
    """Seed questions, the policy's answers, and execution's verdicts by answer."""
    assert isinstance(recipe.task, NbaTaskConfig)
    task = recipe.task.model_copy(update={"train_questions": config.seed_questions})
    draw = content_id("seed questions", recipe.seed)
    prompts = folder.records(
        "seed/prompts.parquet",
        Prompt,
        lambda _: list(train_prompts(task, judge_databases(task.database), 0, int(draw, 16), taken).prompts),
    )
    sampling = Sampling(config.seed_samples, config.seed_temperature, max_new_tokens=recipe.generation.max_new_tokens)
    answers = folder.records(
        "seed/completions.parquet",
        Completion,
        lambda journal: generate_completions(
            writer_of(recipe, initial_source(recipe)),
            prompts,
            sampling,
            seed=recipe.seed,
            journal=journal,
            label="seed answers",
        ),
    )

    def judge(journal: Any) -> list[Judgement]:
        with execution_judge(recipe) as execution:
            return execution.judge(prompts, answers, journal=journal, label="judge seed answers")

    found = folder.records("seed/judgements.parquet", Judgement, judge)
    return prompts, answers, {judgement.completion_ids[0]: judgement for judgement in found}


def _examples(
    asked: JudgePrompt,
    prompts: Sequence[Prompt],
    answers: Sequence[Completion],
    verdicts: Mapping[str, Judgement],
    without_gold: set[str],
) -> list[JudgingExample]:
    """One per distinct finished answer; gold answers too, but for the prompts in `without_gold`."""
    groups: dict[str, list[tuple[str, Mapping[str, float]]]] = {prompt.id: [] for prompt in prompts}
    for answer in answers:
        verdict = verdicts[answer.id]
        if verdict.value is not None and answer.finish_reason == "stop" and answer.text.strip():
            groups[answer.prompt_id].append((answer.text, verdict.objectives))
    found: dict[str, JudgingExample] = {}
    for prompt in prompts:
        gold = render_answer(prompt.meta["gold_plan"], prompt.meta["gold_sql"])
        right = {"correct": 1.0, "valid": 1.0, "reasoning": 1.0, "verbosity": 1.0}
        extra = [] if prompt.id in without_gold else [(gold, right)]
        for text, objectives in [*groups[prompt.id], *extra]:
            failed = failed_checks(prompt, text, objectives)
            question = asked.fill(prompt=conversation(prompt.messages), answer=text)
            reply = judging_answer(prompt, failed)
            example = JudgingExample(
                ({"role": "user", "content": question},),
                reply,
                prompt.id,
                prompt.meta["template"],
                objectives["correct"],
            )
            assert example.score == score(failed)
            found.setdefault(content_id(prompt.id, " ".join(text.split())), example)
    return list(found.values())


def evaluation_texts(recipe: Recipe, folder: RunFolder) -> list[str]:
    """The evaluation's questions: those of the run, or as its task draws them."""
    if not isinstance(recipe.task, NbaTaskConfig):
        return []
    path = folder.root / "prompts.parquet"
    if path.exists():
        prompts = [prompt for prompt in folder.records(path.name, Prompt, lambda _: []) if prompt.split == "test"]
    else:
        prompts = list(test_prompts(recipe.task, judge_databases(recipe.task.database), 0).prompts)
    return [prompt.meta["question"] for prompt in prompts]
