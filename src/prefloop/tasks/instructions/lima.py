"""LIMA (2305.11206): 1,030 conversations to learn from, 300 prompts to be tested on.

``conversations`` is a list of plain texts, the user's first; rows of ``test.jsonl`` hold one text, the prompt. The
data set's own loading script cannot run under current `datasets`: the JSON lines are read.
"""

from __future__ import annotations

REPOSITORY = "GAIR/lima"
FILES = {"train": ("train.jsonl",), "test": ("test.jsonl",)}
ROWS = {"train": 1030, "test": 300}
"""As counted by others (2026-08): a file that has another number of rows is named."""

LICENSE = "other (CC BY-NC-SA family): research use only"
ORIGIN = (
    "The prompts are from LIMA (GAIR/lima, arXiv 2305.11206), whose licence allows research use only "
    "(CC BY-NC-SA family; parts keep the licence of where they come from): ask its authors before any other use."
)
