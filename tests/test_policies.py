"""The policies of a run: one in memory at a time, the same again when it is loaded again."""

from __future__ import annotations

import weakref
from collections import Counter

import pytest
import torch

from prefloop.config.judges import EnsembleConfig, LLMConfig
from prefloop.config.recipe import Recipe
from prefloop.loop import main
from prefloop.loop.policies import Policies, initial_lineage, initial_policy
from prefloop.models.load import Policy


def weights(policies: Policies) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in policies["a"].model.state_dict().items()}


def test_a_policy_goes_before_the_next_one_comes() -> None:
    recipe, loads, alive = Recipe(), Counter[str](), []

    def loader(name: str) -> Policy:
        assert all(reference() is None for reference in alive)
        loads[name] += 1
        policy = initial_policy(recipe)
        alive.append(weakref.ref(policy.model))
        return policy

    policies = Policies({name: lambda name=name: loader(name) for name in "ab"})
    first = weights(policies)
    lineages = [policies[name].lineage for name in "aba"]  # not in an assert, which would keep the policies
    assert lineages == [initial_lineage(recipe)] * 3
    assert all(torch.equal(value, first[name]) for name, value in weights(policies).items())
    assert loads == {"a": 2, "b": 1}  # asked twice in a row, it stays
    policies.release()
    assert all(reference() is None for reference in alive)
    policies.release()


def test_a_judge_of_the_policys_own_family_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(main, "note", said.append)
    recipe = Recipe(policy={"model": "mistralai/Mistral-7B-Instruct-v0.2"})
    own, other = (LLMConfig(model=m, endpoint="http://localhost/v1") for m in ("mistral-large-latest", "gpt-4o"))
    main._say_kin(recipe, other)
    assert said == []
    main._say_kin(recipe, EnsembleConfig(members=(own, other)))
    assert said == [
        "judge mistral-large-latest and policy are both of the family 'mistral': such judges favour their own kind"
    ]
