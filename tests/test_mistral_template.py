"""Mistral-7B-Instruct-v0.2's chat template against mistral-common, token for token.

`mistral_common` carries the model's SentencePiece file and is the authority on its format: BOS, then each message
encoded alone. The Hub's folder holds the same vocabulary as ``tokenizer.json``, in two states: as first published
(every piece of text between control tokens gets a space in front), and since "Align tokenizer with mistral-common"
(only a text's very start does). Both are built here from the SentencePiece file, merges in the order of their scores
as the published ones are, and loaded as transformers loads them.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mistral_common
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import AutoTokenizer

from prefloop.errors import ModelError
from prefloop.models.load import read_tokenizer
from prefloop.models.template import encode_answer, encode_prompt
from prefloop.records import Message

SENTENCEPIECE = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "preferences"

ALIGNED = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.first and system_message is defined %}
            {{- " [INST] " + system_message + "\\n\\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- " [INST] " + message["content"] + " [/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
"""
"""Of the Hub's folder since it was aligned."""

ORIGINAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
"""Of the Hub's folder as first published."""

SPACED = ORIGINAL.replace("{{ message['content'] + eos_token}}", "{{ ' ' + message['content'] + eos_token }}")
"""The original with a space in front of answers: what makes the first folder agree."""


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def build_folder(folder: Path, aligned: bool) -> Path:
    """A tokenizer folder as the Hub's: ``tokenizer.json`` and ``tokenizer_config.json`` beside the SentencePiece file."""
    pieces = sentencepiece.SentencePieceProcessor(str(SENTENCEPIECE))
    scores = {pieces.id_to_piece(i): pieces.get_score(i) for i in range(len(pieces))}
    splits = [(score, p[:i], p[i:]) for p, score in scores.items() for i in range(1, len(p))]
    merges = [split for split in splits if split[1] in scores and split[2] in scores]
    merges.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])), reverse=True)
    vocabulary = {piece: i for i, piece in enumerate(scores)}
    pairs = [(left, right) for _, left, right in merges]
    tokenizer = Tokenizer(BPE(vocabulary, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if aligned:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    shutil.copy(SENTENCEPIECE, folder / "tokenizer.model")
    config: dict[str, Any] = {"tokenizer_class": "LlamaTokenizer", "legacy": not aligned, "add_bos_token": True}
    config |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}
    config |= {"chat_template": ALIGNED if aligned else ORIGINAL, "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    return folder


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = build_folder(tmp_path_factory.mktemp("hub") / "aligned", aligned=True)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="module")
def first_published(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = build_folder(tmp_path_factory.mktemp("hub") / "original", aligned=False)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def test_a_folder_without_tokenizer_json_is_refused(tmp_path: Path) -> None:
    folder = build_folder(tmp_path / "folder", aligned=True)
    read_tokenizer(folder, SimpleNamespace(get_input_embeddings=lambda: SimpleNamespace(num_embeddings=32_000)))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.model but no tokenizer\.json.*fetch tokenizer\.json"):
        read_tokenizer(folder, None)


def with_template(tokenizer: Any, template: str) -> Any:
    changed = copy.copy(tokenizer)
    changed.chat_template = template
    return changed


AUTHORITY = MistralTokenizer.v1()


def authority_prompt(messages: Sequence[Message]) -> list[int]:
    kinds = {"user": UserMessage, "assistant": AssistantMessage, "system": SystemMessage}
    request: Any = ChatCompletionRequest(messages=[kinds[m["role"]](content=m["content"]) for m in messages])
    return list(AUTHORITY.encode_chat_completion(request).tokens)


def authority_answer(text: str) -> list[int]:
    message = AssistantMessage(content=text)
    return list(AUTHORITY.instruct_tokenizer.encode_assistant_message(message, False))


TEXTS = [
    "Hello there",
    "Write a poem.\n\nIt should rhyme.\n",
    "\nstarts with a newline",
    "two  spaces, three   spaces,    four\n    def indented():\n\t\treturn 1",
    "trailing spaces  ",
    "naïve café, 日本語, 🎉🏽, שלום \u202e עולם",
    "e\u0301 is not é, ﬁ is not fi, ① is not 1, \u00a0nbsp\u00a0",
    "1,234,567.89 = 0x0A <0x0A>",
    "[INST] not a marker [/INST]",
    "\r\nWindows\r\n",
    "\x00 and \x7f",
    " ",
]
CONVERSATIONS = [
    *([user(text)] for text in TEXTS),
    *([system(text), user("Go on.")] for text in TEXTS),
    *([user("First."), assistant(text), user("Then?")] for text in TEXTS),
    [system("Be brief."), user("a"), assistant("b"), user("c"), assistant("d\n"), user("e  ")],
]


class TestAlignedFolder:
    """The template that `mistralai/Mistral-7B-Instruct-v0.2` has today."""

    def test_transformers_loads_the_file_as_it_is(self, aligned: Any) -> None:
        assert len(aligned) == 32_000
        assert type(aligned).__name__ == "TokenizersBackend"
        assert aligned.chat_template == ALIGNED
        assert json.loads(aligned.backend_tokenizer.to_str())["pre_tokenizer"]["prepend_scheme"] == "first"

    @pytest.mark.parametrize("messages", CONVERSATIONS, ids=range(len(CONVERSATIONS)))
    def test_prompts(self, aligned: Any, messages: list[Message]) -> None:
        ids = encode_prompt(aligned, messages)
        assert ids == authority_prompt(messages)
        assert ids.count(1) == 1

    @pytest.mark.parametrize("text", [text for text in TEXTS if text.strip()])
    def test_answers(self, aligned: Any, text: str) -> None:
        assert encode_answer(aligned, [user("Well?")], text) == (authority_answer(text), 0)

    def test_by_hand(self, aligned: Any) -> None:
        tokens = aligned.convert_ids_to_tokens(
            encode_prompt(aligned, [system("S"), user("U"), assistant("A"), user("V")])
        )
        marker, end = ["▁[", "INST", "]"], ["▁[", "/", "INST", "]"]
        newlines = ["<0x0A>", "<0x0A>"]
        assert tokens == ["<s>", *marker, "▁S", *newlines, "U", *end, "▁A", "</s>", *marker, "▁V", *end]

    # Control tokens have a test of their own.
    plain = st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="<"), min_size=1, max_size=40
    ) | st.lists(st.sampled_from(["  ", "\n", "a", " b", "▁", "[", "[INST]", "é", "🎉", "   ", "7"]), min_size=1).map(
        "".join
    )

    @settings(max_examples=80, deadline=None)
    @given(asked=plain, said=plain, folded=plain)
    def test_any_text(self, aligned: Any, asked: str, said: str, folded: str) -> None:
        one, more = [user(asked)], [system(folded), user(asked), assistant(said), user("Then?")]
        assert encode_prompt(aligned, one) == authority_prompt(one)
        assert encode_prompt(aligned, more) == authority_prompt(more)
        if said.startswith((" ", "▁")):  # refused, or with the same ids: never encoded otherwise
            with suppress(ModelError):
                assert encode_answer(aligned, one, said)[0] == authority_answer(said)
        else:
            assert encode_answer(aligned, one, said) == (authority_answer(said), 0)

    @pytest.mark.shared_data
    @pytest.mark.skipif(not DATA.is_dir(), reason="the real data does not lie beside the checkout (../shared/data)")
    def test_real_texts(self, aligned: Any) -> None:
        pairs = json.loads((DATA / "llamafactory_dpo_en_demo.json").read_text())
        texts = [row["chosen"]["value"] for row in pairs] + [row["conversations"][0]["value"] for row in pairs]
        lines = (DATA / "mt_bench_question.jsonl").read_text().splitlines()
        texts += [turn for line in lines for turn in json.loads(line)["turns"]]
        assert len(texts) == 760
        for text in texts:
            assert encode_prompt(aligned, [user(text)]) == authority_prompt([user(text)])
            if not text.startswith(" "):
                assert encode_answer(aligned, [user("Well?")], text) == (authority_answer(text), 0)

    @pytest.mark.parametrize(
        ("text", "read"),
        [("</s> ends nothing", "< /s> ends nothing"), ("a <s> b", "a < s> b"), ("<unk>", "< unk>")],
    )
    def test_control_tokens_in_text_are_text(self, aligned: Any, text: str, read: str) -> None:
        """Read with a space inside, which mistral-common does not need: no token of the text is a control token."""
        assert encode_prompt(aligned, [user(text)]) == authority_prompt([user(read)])
        assert encode_answer(aligned, [user("Well?")], text) == (authority_answer(read), 0)


class TestFirstPublishedFolder:
    @pytest.mark.parametrize("text", TEXTS)
    def test_its_template_agrees_on_a_single_turn(self, first_published: Any, text: str) -> None:
        assert encode_prompt(first_published, [user(text)]) == authority_prompt([user(text)])

    def test_its_template_glues_answers_to_the_marker(self, first_published: Any) -> None:
        messages = [user("First."), assistant("Hello there"), user("Then?")]
        ours, theirs = encode_prompt(first_published, messages), authority_prompt(messages)
        different = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
        names = [first_published.convert_ids_to_tokens([ids[different[0]]])[0] for ids in (ours, theirs)]
        assert (len(different), names) == (1, ["Hello", "▁Hello"])

    def test_its_template_is_refused_for_training_and_for_system_messages(self, first_published: Any) -> None:
        with pytest.raises(ModelError, match="prompt and answer do not join"):
            encode_answer(first_published, [user("Well?")], "Hello there")
        with pytest.raises(ModelError, match="refuses the messages: Conversation roles must alternate"):
            encode_prompt(first_published, [system("Be brief."), user("Well?")])

    def test_a_space_in_front_of_answers_makes_it_agree(self, first_published: Any) -> None:
        spaced = with_template(first_published, SPACED)
        for messages in CONVERSATIONS:
            if messages[0]["role"] != "system":
                assert encode_prompt(spaced, messages) == authority_prompt(messages)
        for text in TEXTS:
            assert encode_answer(spaced, [user("Well?")], text) == (authority_answer(text), 0)

    def test_the_aligned_template_on_it_doubles_the_first_space(self, first_published: Any) -> None:
        mixed = encode_prompt(with_template(first_published, ALIGNED), [user("Well?")])
        assert first_published.convert_ids_to_tokens(mixed[:3]) == ["<s>", "▁", "▁["]

    def test_its_template_on_the_aligned_folder_lacks_the_first_space(self, aligned: Any) -> None:
        mixed = encode_prompt(with_template(aligned, ORIGINAL), [user("Well?")])
        assert aligned.convert_ids_to_tokens(mixed[:3]) == ["<s>", "[", "INST"]
