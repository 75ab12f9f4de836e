"""Self-rewarding (2401.10020): a seed model that can answer and judge, new prompts of its own, its own verdicts.

    M1 = SFT(M0; IFT + EFT)
    M_{t+1} = DPO(M_t; best against worst of the answers of M_t to prompts of M_t, by the scores of M_t)

`seed_model` makes M1; `self_rewarding_round` goes from M_t to M_{t+1}.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from prefloop.config.judges import LLMConfig
from prefloop.config.loop import SelfRewardingConfig
from prefloop.config.recipe import Recipe
from prefloop.config.sampling import Sampling
from prefloop.errors import DataError
from prefloop.evaluation.judge_quality import HIGHEST, judge_quality
from prefloop.evaluation.rounds import judge_health
from prefloop.generation.generate import Writer, generate_completions
from prefloop.judging.groups import require_scored
from prefloop.judging.llm import LLMJudge
from prefloop.judging.verdicts import read_score
from prefloop.loop.heads import Head
from prefloop.loop.launch import Launch
from prefloop.loop.own_prompts import draw_prompts
from prefloop.loop.policies import writer_of
from prefloop.loop.preference_round import Outcome, candidates, paired, tuned
from prefloop.loop.seed_data import JudgingExample, read_judging, rubric
from prefloop.loop.seed_model import SEED, seed_model, seed_prompts, settings
from prefloop.models.load import Policy
from prefloop.models.template import encode_prompt
from prefloop.preferences.build import build_preferences
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.journal import Journal
from prefloop.store.run_folder import RunFolder
from prefloop.store.tables import read_records

__all__ = ["draw_prompts", "examined_quality", "own_judge", "seed_model", "self_rewarding_round"]

ITSELF = "itself"
"""What verdicts are signed with in place of a model's name: a path would differ from run to run."""


def own_judge(policy: Policy | Writer, config: SelfRewardingConfig, seed: int) -> LLMJudge:
    """The policy as the judge of its own answers; use it in a with block."""
    asked = LLMConfig(
        mode="rubric",
        model=ITSELF,
        prompt=rubric(config),
        samples=config.judge_samples,
        temperature=config.judge_temperature,
        max_new_tokens=config.judge_tokens,
    )
    return LLMJudge(asked, policy=policy, seed=seed)


def examined_verdicts(
    policy: Policy | Writer,
    examples: Sequence[JudgingExample],
    config: SelfRewardingConfig,
    seed: int,
    journal: Journal | None = None,
) -> list[Judgement]:
    """The policy's scores in the examples' place, the mean of its readable verdicts; without one, unscored."""
    asked = {example.id: Prompt.create(example.messages, "judge", "train") for example in examples}
    fitting = {
        prompt.id: prompt
        for prompt in asked.values()
        if not policy.context
        or len(encode_prompt(policy.tokenizer, prompt.messages)) + config.judge_tokens <= policy.context
    }
    sampling = Sampling(config.judge_samples, config.judge_temperature, max_new_tokens=config.judge_tokens)
    scores: dict[str, list[int]] = {}
    for reply in generate_completions(
        policy, list(fitting.values()), sampling, seed=seed, journal=journal, label="examine the judge"
    ):
        verdict = read_score(reply.text) if reply.finish_reason == "stop" else None
        scores.setdefault(reply.prompt_id, []).extend([] if verdict is None else [verdict])
    found = []
    for example in examples:
        read = scores.get(asked[example.id].id, [])
        value = fmean(read) if read else None
        found.append(
            Judgement.create(
                example.group, (example.id,), f"llm:rubric:{ITSELF}", "score", value, raw={"verdicts": read}
            )
        )
    return found


def examined_quality(recipe: Recipe, whole: RunFolder, place: RunFolder, policy: Policy | Writer) -> dict[str, Any]:
    """What a policy is worth as a judge on the examples kept from the seed model; its verdicts are kept in `place`."""
    config = settings(recipe)
    examples = read_judging(whole.root / SEED / "examined.jsonl")
    verdicts = place.records(
        "stages/examined-judgements.parquet",
        Judgement,
        lambda journal: examined_verdicts(policy, examples, config, recipe.seed, journal),
    )
    templates = {example.group: example.template for example in examples}
    return judge_quality(verdicts, [example.truth for example in examples], templates)


def self_rewarding_round(
    recipe: Recipe,
    whole: RunFolder,
    folder: RunFolder,
    number: int,
    start: Head,
    head: Head,
    earlier: Sequence[RunFolder],
    test: Sequence[Prompt],
    launch: Launch | None = None,
) -> Outcome:
    """From M_t to M_{t+1}.

    Args:
        whole: the run's folder, where the seed data is.
        folder: the round's.
        start: M1.
        head: M_t.
        earlier: the folders of the rounds before.
        test: the evaluation's prompts, which are not asked.
        launch: processes that train; None: this one.
    """
    policy = writer_of(recipe, head.source)
    count = settings(recipe).prompts
    prompts, completions, judgements, drawn = own_labels(
        recipe, whole, folder, number, head, policy, count, earlier, test
    )
    quality = examined_quality(recipe, whole, folder, policy)
    del policy  # training takes its memory
    health = judge_health(judgements, highest=HIGHEST)
    judge = {"name": "the policy itself", **health, "accuracy": quality["accuracy"], "examined": quality}
    built = build_preferences(prompts, completions, judgements, recipe.preferences, recipe.seed)
    learned, data = paired(folder, prompts, completions, judgements, built)
    training = tuned(recipe, folder, start, head, learned, launch)
    after = head.trained(folder.root / "checkpoint", recipe.training)
    return Outcome(after, prompts, {**data, "new_prompts": drawn}, judge, training)


def own_labels(
    recipe: Recipe,
    whole: RunFolder,
    folder: RunFolder,
    number: int,
    head: Head,
    policy: Policy | Writer,
    count: int,
    earlier: Sequence[RunFolder],
    test: Sequence[Prompt],
) -> tuple[list[Prompt], list[Completion], list[Judgement], dict[str, int]]:
    """`count` prompts that the policy wrote, its answers to them and its verdicts on these; and what was dropped.

    Args:
        policy: the head, merged.
    """
    prompts, drawn = _new_prompts(recipe, whole, folder, number, policy, count, earlier, test)
    completions = candidates(recipe, folder, number, head, prompts)

    def judging(journal: Journal) -> list[Judgement]:
        with own_judge(policy, settings(recipe), recipe.seed) as judge:
            found = judge.judge(prompts, completions, journal=journal)
        require_scored(found)
        return found

    return prompts, completions, folder.records("judgements.parquet", Judgement, judging), drawn


def _new_prompts(
    recipe: Recipe,
    whole: RunFolder,
    folder: RunFolder,
    number: int,
    policy: Policy | Writer,
    count: int,
    earlier: Sequence[RunFolder],
    test: Sequence[Prompt],
) -> tuple[list[Prompt], dict[str, int]]:
    """The round's prompts, and what was written and dropped."""
    config = settings(recipe)
    before = [prompt for place in earlier for prompt in read_records(place.root / "prompts.parquet", Prompt)]

    def compute(journal: Journal) -> list[Prompt]:
        found, counts = draw_prompts(
            policy,
            seed_prompts(recipe, whole),
            count,
            config,
            seed=recipe.seed,
            round_=number,
            avoid=[prompt.messages[-1]["content"] for prompt in test],
            earlier=before,
            journal=journal,
        )
        if not found:
            drops = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
            raise DataError(
                f"round {number}: the policy wrote no new prompt ({drops}): give more loop.written examples"
            )
        folder.document("stages/new-prompts.json", lambda: counts)
        return found

    prompts = folder.records("prompts.parquet", Prompt, compute)
    return prompts, folder.document("stages/new-prompts.json", dict)
