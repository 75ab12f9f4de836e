"""PairRM: equal to llm-blender at batch size 1, whatever else is in the batch; SentencePiece's tokens; its traps."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from prefloop.config.judges import PairRMConfig
from prefloop.errors import JudgeError, ModelError
from prefloop.judging.pairrm import CARD, PairRMJudge, as_shown, check_card, compare, matrices, ranks, scores
from prefloop.models.deberta import DebertaV3
from prefloop.models.pairrm import MARKERS, PairRM, Segment, load_pairrm
from prefloop.models.unigram import read_sentencepiece, read_tokenizer
from prefloop.records import Completion, Judgement, Message, Prompt
from prefloop.store.journal import FileJournal

pytest.importorskip("sentencepiece")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MODES = ("[A,B]+[B,A]", "[A,B]", "[B,A]")
LIMITS = {"source_maxlength": 40, "candidate_maxlength": 20}
ODD = {
    "no-break space": "good\u00a0game",
    "ellipsis": "hello…",
    "ligature": "ﬁne ﬁrst",
    "full width": "ｈｅｌｌｏ Ａ",
    "signs": "™ ½ ①",
    "zero width": "good\u200bgame",
    "white space": "  hello \n\n\t you  ",
    "empty": "",
    "blank": " \n\t ",
    "right to left": "שלום مرحبا",
    "emoji": "😀 team 👩‍👩‍👧",
    "combining": "e\u0301 A\u030a",
    "control": "a\u0000b",
    "no spaces": "hello" * 50,
}


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield
    for name in ("_llm_blender", "pairrm"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def folder(benchmarks: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from _llm_blender import TINY, write_ranker

    return write_ranker(tmp_path_factory.mktemp("ranker") / "PairRM", TINY)


@pytest.fixture(scope="module")
def model(folder: Path) -> PairRM:
    return load_pairrm(str(folder), device="cpu")


@pytest.fixture(scope="module")
def groups(benchmarks: None) -> list[tuple[str, list[str]]]:
    from pairrm import made_up

    return made_up(4, 3)


def _copy(folder: Path, to: Path) -> Path:
    """Without the model it was built on."""
    return Path(shutil.copytree(folder, to, ignore=shutil.ignore_patterns("base")))


def _hf_folder(folder: Path, to: Path, **changes: Any) -> Path:
    """The layout of PairRM-hf: the same weights, one configuration with the markers' ids, a tokenizer beside it."""
    _copy(folder, to)
    base = json.loads((folder / "base" / "config.json").read_text())
    size = base["vocab_size"] - 4
    ids = {
        "source_prefix_id": size,
        "cand1_prefix_id": size + 1,
        "cand2_prefix_id": size + 2,
        "cand_prefix_id": size + 3,
    }
    (to / "config.json").write_text(json.dumps({**base, **ids, "n_tasks": 1, "drop_out": 0.05, **changes}))
    tokenizer = read_tokenizer(folder / "base")
    assert tokenizer is not None
    tokenizer.add_tokens(list(MARKERS))
    tokenizer.save(str(to / "tokenizer.json"))
    return to


@pytest.fixture(scope="module")
def blender(folder: Path) -> Any:
    from _llm_blender import open_llm_blender

    return open_llm_blender(folder, "cpu")


class TestAgainstLLMBlender:
    """The original, on ASCII text, where transformers 5 gives it the right tokens."""

    def test_scores_and_ranks(self, model: PairRM, blender: Any, groups: list[tuple[str, list[str]]]) -> None:
        sources, answers = [s for s, _ in groups], [list(a) for _, a in groups]
        ours = np.stack([scores(matrix) for matrix in matrices(model, groups)])
        theirs = blender.rank(sources, answers, return_scores=True, batch_size=1)
        assert ours.dtype == theirs.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
        assert np.ptp(ours) > 0.05  # random weights that tell answers apart
        assert [ranks(row) for row in ours] == blender.rank(sources, answers, batch_size=1).tolist()

    @pytest.mark.parametrize("mode", MODES)
    def test_compare(self, model: PairRM, blender: Any, groups: list[tuple[str, list[str]]], mode: Any) -> None:
        sources, left, right = [s for s, _ in groups], [a[0] for _, a in groups], [a[1] for _, a in groups]
        theirs = blender.compare(sources, left, right, batch_size=1, return_logits=True, mode=mode)
        np.testing.assert_allclose(compare(model, sources, left, right, mode), theirs, rtol=0, atol=1e-5)

    def test_long_texts_are_cut_as_at_batch_size_1(self, folder: Path, tmp_path: Path) -> None:
        from _llm_blender import WORDS, open_llm_blender

        short = _copy(folder, tmp_path / "short")
        config = json.loads((short / "config.json").read_text())
        (short / "config.json").write_text(json.dumps(config | LIMITS))
        rng = random.Random(1)
        long = [
            (" ".join(rng.choices(WORDS, k=n)), [" ".join(rng.choices(WORDS, k=k)) for k in (5, 40)])
            for n in (8, 25, 60)
        ]
        ours = np.stack([scores(m) for m in matrices(load_pairrm(str(short), device="cpu"), long)])
        blender = open_llm_blender(short, "cpu")
        sources, answers = [s for s, _ in long], [list(a) for _, a in long]
        theirs = blender.rank(sources, answers, return_scores=True, batch_size=1)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
        batched = blender.rank(sources, answers, return_scores=True, batch_size=3)
        assert np.abs(batched - theirs).max() > 1e-4  # its own batches change what is cut

    def test_a_segment_end_in_the_text_is_a_space(self, model: PairRM, blender: Any) -> None:
        answers = ["hello[SEP]you", "good guy"]
        theirs = blender.rank(["who [SEP] are you"], [list(answers)], return_scores=True, batch_size=1)[0]
        np.testing.assert_allclose(scores(matrices(model, [("who [SEP] are you", answers)])[0]), theirs, atol=1e-5)

    def test_conversations_are_laid_out_alike(self, blender: Any) -> None:
        from llm_blender.blender.blender_utils import get_pair_from_conv

        turns = [("USER", "hi\nyou"), ("ASSISTANT", "hello"), ("USER", "who?"), ("ASSISTANT", "I"), ("USER", "why?")]
        before = [{"role": role, "content": text} for role, text in turns]
        ends = [[{"role": "ASSISTANT", "content": text}] for text in ("because", "sorry")]
        (source,), (left,), (right,) = get_pair_from_conv([before + ends[0]], [before + ends[1]])
        messages = [{"role": turn["role"].lower(), "content": turn["content"]} for turn in before]
        assert as_shown(messages, ["because", "sorry"]) == (source, [left, right])


class TestTokens:
    @pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
    def test_are_sentencepiece_s(self, folder: Path, text: str) -> None:
        import sentencepiece

        tokenizer = read_tokenizer(folder / "base")
        oracle = sentencepiece.SentencePieceProcessor(str(folder / "base" / "spm.model"))
        assert tokenizer is not None
        assert tokenizer.encode(text, add_special_tokens=False).ids == oracle.encode(text)

    @settings(derandomize=True)
    @given(text=st.text("abehilnou019 .,\n\t" + "äßŒéЖш日本שמ…“”–½™①ﬁﬀｈＡ\u00a0\u2009\u3000😀", max_size=40))
    def test_of_any_letters_are_sentencepiece_s(self, folder: Path, text: str) -> None:
        import sentencepiece

        tokenizer = read_tokenizer(folder / "base")
        oracle = sentencepiece.SentencePieceProcessor(str(folder / "base" / "spm.model"))
        assert tokenizer is not None
        assert tokenizer.encode(text, add_special_tokens=False).ids == oracle.encode(text)

    def test_the_file_is_read_as_its_own_library_reads_it(self, folder: Path) -> None:
        import sentencepiece

        oracle = sentencepiece.SentencePieceProcessor(str(folder / "base" / "spm.model"))
        found = read_sentencepiece((folder / "base" / "spm.model").read_bytes())
        pieces = [(oracle.id_to_piece(i), oracle.get_score(i)) for i in range(oracle.get_piece_size())]
        assert [(text, score) for text, score, _ in found.pieces] == pieces
        assert len(found.charsmap) > 100_000

    @pytest.mark.parametrize("content", [b"", b"no protobuf", b"\x0a\xff\xff\xff\xff\x0f", b"\xff" * 12])
    def test_a_file_that_is_none_is_refused(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "spm.model").write_bytes(content)
        with pytest.raises(ModelError, match="cannot read the tokenizer in"):
            read_tokenizer(tmp_path)

    def test_transformers_5_would_give_others(self, folder: Path) -> None:
        """The reason for all this; when it fails, transformers has been mended."""
        from transformers import AutoTokenizer

        theirs, ours = AutoTokenizer.from_pretrained(folder / "base"), read_tokenizer(folder / "base")
        assert ours is not None
        assert theirs.encode(ODD["ligature"]) != ours.encode(ODD["ligature"]).ids
        assert theirs.encode("hello you", add_special_tokens=False) == ours.encode("hello you").ids


def test_the_encoder_is_transformers_own(folder: Path) -> None:
    """Past 128 positions distances share rows of the table, logarithmically; past 512 the furthest are all one."""
    from transformers import DebertaV2Model

    theirs = DebertaV2Model.from_pretrained(folder / "base").eval()
    ids = torch.randint(4, 60, (3, 640), generator=torch.Generator().manual_seed(0))
    real = torch.arange(640) < torch.tensor([[640], [300], [7]])
    at = torch.tensor([[1, 320, 639], [1, 150, 299], [0, 3, 6]])
    with torch.inference_mode():
        whole = theirs(input_ids=ids, attention_mask=real).last_hidden_state
    ours = DebertaV3(theirs)
    for rows in ([0, 1, 2], [0]):  # padded, and without padding
        expected = torch.stack([whole[row, at[row]] for row in rows])
        torch.testing.assert_close(ours(ids[rows], real[rows], at[rows]), expected, rtol=0, atol=1e-4)


class TestLayout:
    def test_the_logit_is_the_head_s_at_the_markers_that_were_put(self, folder: Path, model: PairRM) -> None:
        """By the formula, on transformers' own encoder; ids of markers within the text draw nothing away."""
        from transformers import DebertaV2Model

        size = model.tokenizer.get_vocab_size()
        body = {"source": (9, size, 7), "left": (5, size + 1, size + 2), "right": (6,)}
        row = [1, size, *body["source"], 2, 1, size + 1, *body["left"], 2, 1, size + 2, *body["right"], 2]
        hidden = DebertaV2Model.from_pretrained(folder / "base").eval()(torch.tensor([row])).last_hidden_state[0]
        tensors = load_file(folder / "model.safetensors")
        w1, b1, w4, b4 = (tensors[f"head_layer.{n}"] for n in ("1.weight", "1.bias", "4.weight", "4.bias"))
        left, right = (w4 @ torch.tanh(w1 @ torch.cat([hidden[1], hidden[at]]) + b1) + b4 for at in (7, 13))
        source, a, b = (Segment(ids, 0, 0) for ids in body.values())
        assert model.logits([(source, a, b)], 1).tolist() == pytest.approx((left - right).tolist(), abs=1e-5)

    def test_a_source_of_its_own_sets_the_limit(self, model: PairRM) -> None:
        """S = 1224 - 3 - 100 free tokens leave 412 + 50 for an answer, of which 3 are its frame."""
        words = model.tokenizer.encode("hello", add_special_tokens=False).ids
        assert len(words) == 1
        asked, (answer,) = model.segments("hello " * 1_121, ["you " * 500])
        assert (len(asked.ids), asked.cut) == (1_121, 0)
        assert (len(answer.ids), answer.cut) == (412 + 50 - 3, 500 - 459)
        asked, (answer,) = model.segments("hello " * 2_000, ["you " * 500])
        assert (len(asked.ids) + 3, asked.cut) == (1_224, 2_000 - 1_221)
        assert (len(answer.ids) + 3, answer.cut) == (412, 91)

    @pytest.mark.parametrize("marker", [*MARKERS, "[SEP]", "\ud800"])
    def test_markers_in_text_are_spaces_and_counted(self, model: PairRM, marker: str) -> None:
        text = f"hello{marker}you {marker}"
        asked, (answer,) = model.segments(text, [text])
        plain = model.segments("hello you", ["hello you"])
        assert asked.ids == answer.ids == plain[0].ids
        assert (asked.sanitised, answer.sanitised, plain[0].sanitised) == (2, 2, 0)

    def test_a_marker_in_full_width_letters_is_ordinary_text(self, model: PairRM) -> None:
        """The normaliser turns it into the marker's own characters, after they have been looked for."""
        asked, _ = model.segments("＜｜source｜＞ hello", [])
        assert not set(asked.ids) & set(model.ids)


class TestScores:
    @pytest.mark.parametrize("tokens", [1, 300, 100_000])
    def test_do_not_depend_on_the_batch(
        self, model: PairRM, groups: list[tuple[str, list[str]]], tokens: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("prefloop.models.pairrm.CPU_TOKENS", tokens)
        together = matrices(model, [*groups, ("hello", ["I " * 900, "you"])], tokens)[:-1]
        for group, matrix in zip(groups, together, strict=True):
            np.testing.assert_allclose(matrix, matrices(model, [group], 1)[0], rtol=0, atol=1e-5)

    def test_numbers_of_answers_may_differ(self, model: PairRM) -> None:
        found = matrices(model, [("who", ["I"]), ("who", []), ("who", ["I", "you", "they"])])
        assert [m.size for m in found] == [1, 0, 9]
        assert scores(found[0]).tolist() == [0.0]
        assert scores(found[2]).sum() == pytest.approx(0.0, abs=1e-6)

    def test_by_hand(self) -> None:
        matrix = np.array([[0, 2, 4], [-1, 0, 0.5], [1, 1, 0]], dtype=np.float32)
        # rows minus columns: (2+1 + 4-1)/3, (-1-2 + 0.5-1)/3, (1-4 + 1-0.5)/3
        np.testing.assert_allclose(scores(matrix), [2.0, -3.5 / 3, -2.5 / 3], rtol=1e-6)
        assert ranks(scores(matrix)) == [1, 3, 2]
        assert ranks([1.0, 3.0, 3.0, 0.0]) == [3, 1, 1, 4]

    def test_the_three_ways_to_compare(self, model: PairRM) -> None:
        both, ab, ba = (compare(model, ["who are you"], ["I"], ["good guy"], mode)[0] for mode in MODES)
        assert both == pytest.approx(ab - ba, abs=1e-6)  # not halved
        assert ba == pytest.approx(compare(model, ["who are you"], ["good guy"], ["I"], "[A,B]")[0], abs=1e-6)

    def test_texts_that_read_the_same_run_once(self, model: PairRM, monkeypatch: pytest.MonkeyPatch) -> None:
        ran: list[int] = []
        real = PairRM.logits
        monkeypatch.setattr(PairRM, "logits", lambda self, t, n: ran.append(len(t)) or real(self, t, n))
        (matrix,) = matrices(model, [("who", ["I", "you", "I ", "you", "I"])])
        assert ran == [2]
        (pair,) = matrices(model, [("who", ["I", "you"])])
        np.testing.assert_array_equal(matrix, pair[np.ix_([0, 1, 0, 1, 0], [0, 1, 0, 1, 0])])

    @pytest.mark.parametrize("text", [*ODD.values(), "x" * 100_000, "hello you " * 10_000])
    def test_odd_answers_do_not_break(self, model: PairRM, text: str) -> None:
        found = scores(matrices(model, [(text, [text, "hello"])])[0])
        assert np.isfinite(found).all()

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_half_precision_is_near(
        self, folder: Path, model: PairRM, groups: list[tuple[str, list[str]]], dtype: str
    ) -> None:
        half = matrices(load_pairrm(str(folder), dtype, "cpu"), groups)
        for a, b in zip(half, matrices(model, groups), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=0.1)


class TestFolders:
    def test_both_published_layouts_score_alike(
        self, folder: Path, model: PairRM, groups: list[tuple[str, list[str]]], tmp_path: Path
    ) -> None:
        saved = load_pairrm(str(_hf_folder(folder, tmp_path / "json")), device="cpu")
        both = _hf_folder(folder, tmp_path / "spm")
        shutil.copy(folder / "base" / "spm.model", both)
        asked = [*groups, ("ﬁrst…", ["good\u00a0game", "<|candidate1|> bye"])]
        for other in (saved, load_pairrm(str(both), device="cpu")):
            assert other.ids == model.ids
            for a, b in zip(matrices(model, asked), matrices(other, asked), strict=True):
                np.testing.assert_array_equal(a, b)

    def test_a_tokenizer_without_its_charsmap_is_refused(self, folder: Path, tmp_path: Path) -> None:
        from transformers import AutoTokenizer

        broken = _hf_folder(folder, tmp_path / "broken")
        AutoTokenizer.from_pretrained(folder / "base").save_pretrained(broken)
        (broken / "spm.model").unlink(missing_ok=True)
        with pytest.raises(ModelError, match=r"without the SentencePiece charsmap: put spm\.model beside it"):
            load_pairrm(str(broken), device="cpu")

    def test_the_position_buffer_is_tolerated_and_nothing_else(self, folder: Path, tmp_path: Path) -> None:
        changed = _copy(folder, tmp_path / "changed")
        tensors = load_file(changed / "model.safetensors")
        buffer = {"pretrained_model.embeddings.position_ids": torch.arange(8)}
        save_file({**tensors, **buffer}, changed / "model.safetensors")
        load_pairrm(str(changed), device="cpu")
        save_file({**tensors, "lm_head.weight": torch.ones(1)}, changed / "model.safetensors")
        with pytest.raises(ModelError, match=r"have lm_head\.weight, which PairRM has not"):
            load_pairrm(str(changed), device="cpu")
        missing = "pretrained_model.encoder.LayerNorm.bias"
        save_file({k: v for k, v in tensors.items() if k != missing}, changed / "model.safetensors")
        with pytest.raises(ModelError, match=rf"lack {missing}"):
            load_pairrm(str(changed), device="cpu")
        save_file({**tensors, "head_layer.4.bias": torch.ones(3)}, changed / "model.safetensors")
        with pytest.raises(ModelError, match=r"head_layer\.4\.bias as \(3,\) in place of \(1,\)"):
            load_pairrm(str(changed), device="cpu")

    @pytest.mark.parametrize(
        ("config", "named"),
        [
            (
                {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
                "type llama, not PairRM .*LlamaForCausalLM",
            ),
            ({"ranker_type": "summareranker", "model_type": "roberta"}, r"type summareranker \(roberta\), not PairRM"),
        ],
    )
    def test_another_model_is_named(self, folder: Path, tmp_path: Path, config: dict[str, Any], named: str) -> None:
        other = _copy(folder, tmp_path / "other")
        (other / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match=named):
            load_pairrm(str(other), device="cpu")

    def test_a_deberta_without_the_head_is_named(self, folder: Path, tmp_path: Path) -> None:
        half = _copy(folder, tmp_path / "half")
        tensors = load_file(half / "model.safetensors")
        save_file({k: v for k, v in tensors.items() if k != "head_layer.4.weight"}, half / "model.safetensors")
        with pytest.raises(ModelError, match=r"it has no head_layer\.4\.weight"):
            load_pairrm(str(half), device="cpu")
        with pytest.raises(ModelError, match=r"type deberta-v2, not PairRM \(it has no head_layer"):
            load_pairrm(str(folder / "base"), device="cpu")

    def test_an_older_deberta_and_a_foreign_tokenizer_are_refused(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="it is not DeBERTa-v3"):
            load_pairrm(str(_hf_folder(folder, tmp_path / "v2", share_att_key=False)), device="cpu")
        with pytest.raises(ModelError, match="belong to different models"):
            load_pairrm(str(_hf_folder(folder, tmp_path / "ids", cand2_prefix_id=10_000)), device="cpu")

    def test_the_base_lies_within_or_is_named_with_its_file(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        moved = _copy(folder, tmp_path / "moved")
        config = json.loads((moved / "config.json").read_text())
        (moved / "config.json").write_text(json.dumps({**config, "model_name": "no-owner/deberta-v3-large"}))
        with pytest.raises(ModelError, match=r"needs config\.json of no-owner/deberta-v3-large, and the hub"):
            load_pairrm(str(moved), device="cpu")
        base = moved / "deberta-v3-large"
        base.mkdir()
        shutil.copy(folder / "base" / "config.json", base)
        with pytest.raises(ModelError, match=r"needs spm\.model of no-owner/deberta-v3-large"):
            load_pairrm(str(moved), device="cpu")
        shutil.copy(folder / "base" / "spm.model", base)
        assert load_pairrm(str(moved), device="cpu").ids[0] == 1


def _prompt(*texts: str) -> Prompt:
    roles = ("user", "assistant")
    return Prompt.create(tuple({"role": roles[i % 2], "content": t} for i, t in enumerate(texts)), "test", "train")


def _answers(prompt: Prompt, *texts: str) -> list[Completion]:
    return [
        Completion(f"{prompt.id}-{i}", prompt.id, i, 0, text, (), (), "stop", "policy", {}, 0)
        for i, text in enumerate(texts)
    ]


def _config(folder: Path) -> PairRMConfig:
    return PairRMConfig(model=str(folder), device="cpu")


class TestJudge:
    PROMPTS = (_prompt("who are you"), _prompt("hello", "hello you", "how many games?"), _prompt("best team?"))

    def judged(self, folder: Path, journal: FileJournal | None = None) -> list[Judgement]:
        first, second, third = self.PROMPTS
        answers = [*_answers(first, "I", "you", "I"), *_answers(second, "best"), *_answers(third, "", "a" * 9_000)]
        with PairRMJudge(_config(folder)) as judge:
            return judge.judge(self.PROMPTS, answers, journal=journal)

    def test_one_score_per_answer_with_what_it_came_from(self, folder: Path, model: PairRM) -> None:
        found = self.judged(folder)
        assert [j.prompt_id for j in found] == [self.PROMPTS[i].id for i in (0, 0, 0, 1, 2, 2)]
        assert {(j.kind, j.judge) for j in found} == {("score", "pairrm")}
        (matrix,) = matrices(model, [("who are you", ["I", "you", "I"])])
        assert [j.value for j in found[:3]] == pytest.approx(scores(matrix).tolist(), abs=1e-6)
        assert found[0].value == found[2].value
        other, same = (f"{self.PROMPTS[0].id}-{i}" for i in (1, 2))
        assert found[0].raw["logits"] == {other: pytest.approx(float(matrix[0, 1]), abs=1e-6), same: None}
        assert found[3].value == 0.0
        assert found[3].raw["logits"] == {}
        assert found[5].raw["cut"]["answer"] > 0 == found[4].raw["cut"]["answer"]
        assert found[0].raw["model"] == model.hash
        assert "error" not in found[0].raw

    def test_a_journal_is_gone_on_with(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = self.judged(folder, FileJournal(tmp_path / "journal.jsonl"))
        monkeypatch.setattr(PairRM, "logits", None)
        assert self.judged(folder, FileJournal(tmp_path / "journal.jsonl")) == first

    def test_turns_out_of_order_stay_unscored(self, folder: Path) -> None:
        twice: tuple[Message, ...] = ({"role": "user", "content": "a"}, {"role": "user", "content": "b"})
        prompts = [Prompt.create(twice, "test", "train"), _prompt("who")]
        with PairRMJudge(_config(folder)) as judge:
            found = judge.judge(prompts, [*_answers(prompts[0], "I", "you"), *_answers(prompts[1], "I", "you")])
        assert [j.value is None for j in found] == [True, True, False, False]
        assert "in alternation" in found[0].raw["error"]

    def test_numbers_that_are_none_stay_unscored(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(PairRM, "logits", lambda self, triples, n: torch.full((len(triples),), torch.nan))
        found = self.judged(folder)
        assert [j.value for j in found] == [None, None, None, 0.0, None, None]
        assert "set judge.dtype to float32" in found[0].raw["error"]
        assert set(found[0].raw["logits"].values()) == {None}

    def test_memory_that_runs_out_names_the_setting(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(PairRM, "logits", full)
        with pytest.raises(JudgeError, match=r"lower judge\.tokens_per_batch"):
            self.judged(folder)

    def test_outside_a_with_statement_it_says_so(self, folder: Path) -> None:
        with pytest.raises(JudgeError, match="with statement"):
            PairRMJudge(_config(folder)).judge([_prompt("who")], _answers(_prompt("who"), "I"))

    def test_a_system_message_stands_before(self) -> None:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
        assert as_shown(messages, ["I"]) == ("Be brief.\nWho?", ["I"])

    def test_a_published_model_that_is_not_itself_is_refused(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("prefloop.judging.pairrm.PUBLISHED", (str(folder),))
        with pytest.raises(ModelError, match=r"where its card says 1\.9003, -1\.2547"), PairRMJudge(_config(folder)):
            pass


@pytest.mark.parametrize("candidates", [5, 8])
def test_no_cheaper_tournament_is_good_enough(benchmarks: None, candidates: int) -> None:
    """Why only the full matrix is offered: none reaches 95% at noise as large as the answers' differences."""
    from pairrm import WAYS, agreement

    found = {way: agreement(way, candidates, noise=1.0) for way in WAYS}
    assert all(same < 0.95 or spent == 1.0 for same, spent in found.values()), found


REAL = os.environ.get("PREFLOOP_PAIRRM", "")


@pytest.fixture(scope="module")
def real() -> PairRM:
    return load_pairrm(REAL, device="cpu")


@pytest.mark.skipif(not REAL, reason="set PREFLOOP_PAIRRM to a folder of llm-blender/PairRM or PairRM-hf")
class TestPublishedWeights:
    """Golden values of the model's card."""

    def test_logits(self, real: PairRM) -> None:
        check_card(real, "float32")
        sources, left, right, expected = zip(*CARD, strict=True)
        assert compare(real, sources, left, right, "[A,B]") == pytest.approx(expected, abs=1e-3)

    def test_ranks(self, real: PairRM) -> None:
        groups = [
            ("hello, how are you!", ["get out!", "hi! I am fine, thanks!", "bye!"]),
            ("I love you!", ["I love you too!", "I hate you!", "Thanks! You're a good guy!"]),
        ]
        assert [ranks(scores(matrix)) for matrix in matrices(real, groups)] == [[3, 1, 2], [1, 3, 2]]
