"""The words in which a language model is asked to judge: text files with placeholders, filled in one pass.

Texts to be judged are hostile: each is put between two lines that carry a tag derived from the texts, which no text
can contain, and what looks like a placeholder inside a text stays as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from prefloop.errors import ConfigError
from prefloop.records import Message, content_id

PLACEHOLDERS = {
    "pairwise": frozenset({"prompt", "first", "second"}),
    "rubric": frozenset({"prompt", "answer"}),
    "reasoning": frozenset({"prompt", "answer"}),
    "objectives": frozenset({"prompt", "answer"}),
}
_PLACEHOLDER = re.compile(r"\{(prompt|answer|first|second)\}")


@dataclass(frozen=True)
class JudgePrompt:
    """A prompt file that holds every placeholder of its mode and no other mode's."""

    text: str

    @classmethod
    def load(cls, mode: str, path: Path | None = None) -> JudgePrompt:
        """The mode's own prompt, or the user's.

        Raises:
            ConfigError: the file cannot be read, or its placeholders are not the mode's.
        """
        path = path or Path(__file__).parent / f"{mode}.txt"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"judge.prompt: {path} cannot be read as UTF-8 text ({error})") from error
        found = set(_PLACEHOLDER.findall(text))
        if found != PLACEHOLDERS[mode]:
            wanted = ", ".join(f"{{{name}}}" for name in sorted(PLACEHOLDERS[mode]))
            raise ConfigError(
                f"judge.prompt: {path} must hold the placeholders {wanted}, and no others (mode {mode}); "
                f"it has {', '.join(f'{{{name}}}' for name in sorted(found)) or 'none'}"
            )
        return cls(text.strip())

    def fill(self, **texts: str) -> str:
        """The prompt with each placeholder replaced by its text between tagged lines."""
        tag = content_id("judge prompt", texts)[:12]  # a text would have to contain its own hash to forge this
        return _PLACEHOLDER.sub(lambda match: f"BEGIN {tag}\n{texts[match[1]]}\nEND {tag}", self.text)


def conversation(messages: tuple[Message, ...]) -> str:
    """A prompt as text: the question itself, or the turns with their roles where there are several."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)
