"""DeBERTa's tokenizer from its SentencePiece file, with the normaliser that transformers 5 leaves out.

transformers 5 rebuilds this tokenizer with Unicode NFC in place of the file's own table of character replacements
(the precompiled charsmap), so that no-break spaces, "…", ligatures and full-width letters get other ids than the
models were trained with. Here the pieces, their scores and the charsmap are read from ``spm.model`` and put together
as transformers 4 did: strip, charsmap, runs of spaces to one; a space before the first word.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import Unigram

from prefloop.errors import ModelError

SPECIALS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
"""Types of a piece in sentencepiece_model.proto; 1 is an ordinary one."""


@dataclass(frozen=True)
class SentencePieceModel:
    """What a tokenizer needs of a SentencePiece file (sentencepiece_model.proto)."""

    pieces: tuple[tuple[str, float, int], ...]
    """Text, score and type, by id."""
    charsmap: bytes
    """Compiled replacements of characters; empty where the file has none."""


def read_tokenizer(folder: Path, left_out: tuple[str, ...] = ()) -> Tokenizer | None:
    """The tokenizer of a folder: from ``spm.model``, else ``tokenizer.json`` if that still has its charsmap.

    Args:
        left_out: added tokens of a ``tokenizer.json`` that text is not searched for.

    Returns:
        None where the folder has neither. `encode(text, add_special_tokens=False)` gives the text's own ids.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        if (folder / "spm.model").is_file():
            return from_sentencepiece(read_sentencepiece((folder / "spm.model").read_bytes()))
        saved = folder / "tokenizer.json"
        return _from_json(json.loads(saved.read_text(encoding="utf-8")), left_out) if saved.is_file() else None
    except Exception as error:  # the tokenizers library raises bare Exceptions for what it cannot read
        raise ModelError(f"cannot read the tokenizer in {folder}: {error}; copy the model again") from error


def from_sentencepiece(model: SentencePieceModel) -> Tokenizer:
    """The tokenizer that transformers 4 builds of such a file; ``[MASK]`` takes the id after the last piece.

    Raises:
        ValueError: the file has no piece for unknown text.
    """
    unknown = next((i for i, (_, _, kind) in enumerate(model.pieces) if kind == _UNKNOWN), None)
    if unknown is None:
        raise ValueError("no piece stands for unknown text")
    tokenizer = Tokenizer(Unigram([(text, score) for text, score, _ in model.pieces], unknown, byte_fallback=False))
    steps = [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.charsmap:
        steps.insert(1, normalizers.Precompiled(model.charsmap))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    own = [(text, kind == _CONTROL) for text, _, kind in model.pieces if kind in (_CONTROL, _USER_DEFINED)]
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=special) for text, special in own])
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def read_sentencepiece(content: bytes) -> SentencePieceModel:
    """Pieces (field 1: text 1, score 2, type 3) and charsmap (field 3, in it field 2) of a ModelProto.

    Raises:
        ValueError: the bytes are no SentencePiece model.
    """
    pieces, charsmap = [], b""
    for number, value in _fields(content):
        if number == 1:
            piece = dict(_fields(value))
            score = struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0
            pieces.append((piece[1].decode("utf-8"), score, piece.get(3, 1)))
        elif number == 3:
            charsmap = dict(_fields(value)).get(2, b"")
    if not pieces:
        raise ValueError("it is no SentencePiece model: it has no pieces")
    return SentencePieceModel(tuple(pieces), charsmap)


def _from_json(content: dict[str, Any], left_out: tuple[str, ...]) -> Tokenizer:
    if '"Precompiled"' not in json.dumps(content.get("normalizer")):
        raise ValueError("tokenizer.json was saved without the SentencePiece charsmap: put spm.model beside it")
    content["added_tokens"] = [t for t in content.get("added_tokens", []) if t["content"] not in left_out]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Fields of a protobuf message by number: integers for varints, bytes for everything else."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value: int | bytes
            value, at = _varint(message, at)
        else:
            size, at = _varint(message, at) if wire == 2 else ({1: 8, 5: 4}.get(wire, -1), at)
            if size < 0 or at + size > len(message):
                raise ValueError("it is no SentencePiece model, or is cut short")
            value, at = message[at : at + size], at + size
        yield number, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("it is no SentencePiece model, or is cut short")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
