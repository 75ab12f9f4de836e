"""rec_046: Leverage LLM-as-a-Judge for Evaluating NBA Content.

The work is done by the package prefloop (Python 3.11 or newer), which is imported when the first step runs; this file
itself loads on Python 3.9 and without it, and then says what to install.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

REC = "rec_046"
TITLE = "Leverage LLM-as-a-Judge for Evaluating NBA Content"
RECIPE = "judge-nba.yaml"
OFFLINE = "a small local judge that is taught in this call, on 60 questions"
STEPS = {
    "write_prompt": "Design a prompt for the LLM judge",
    "send": "Implement a function to send the generated content to the LLM judge",
    "parse": "Parse the response from the LLM judge",
    "evaluate": "Evaluate the generated content based on the parsed response",
    "classify": "Use a separate test for zero-shot classifications",
}
PYTHON = (3, 11)
KEYS = ("enabled", "mode", "recipe", "folder")
INSTALL = "python -m pip install ."

logging.basicConfig(level=logging.INFO)
logger = logging.getLogger(__name__)


class LeverageLlmasajudgeForEvaluatingNbaContent:
    """Let a language model judge NBA answers by criteria and a reference, and measure what its verdicts are worth.

    After `setup()`, `execute()` runs all steps; or each step is one call, in this order:

    1. `write_prompt()`: Design a prompt for the LLM judge.
    2. `send()`: Implement a function to send the generated content to the LLM judge.
    3. `parse()`: Parse the response from the LLM judge.
    4. `evaluate()`: Evaluate the generated content based on the parsed response.
    5. `classify()`: Use a separate test for zero-shot classifications.

    Args:
        config: all keys are optional. ``enabled`` (True); ``mode``: "offline", or "production" with ``recipe``, a
            shipped name or the path of a YAML file, for the real job; ``folder`` for what is written (default: a
            temporary one, which `cleanup` removes).
    """

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        self.config = config or {}
        self.initialized = False
        self._problem = ""
        self._job: Any = None
        self._folder: Path | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._results: dict[str, Any] = {}

    def setup(self) -> dict[str, Any]:
        """Check Python, prefloop and the configuration, and prepare the folder; nothing heavy is loaded.

        Returns:
            ``success`` and ``message``; ``error`` as well where something is missing, with the way out.
        """
        self.cleanup()
        self.initialized = True
        self._results = {}
        self._problem = _missing() or self._objection() or self._prepare()
        if self._problem:
            logger.error(self._problem)
            return {"success": False, "message": self._problem, "error": self._problem}
        return {"success": True, "message": f"{REC} is ready. {self._mode()} Files go to {self._folder}."}

    def _objection(self) -> str:
        """What is wrong with the configuration, or nothing."""
        mode, unknown = self.config.get("mode", "offline"), sorted(set(self.config) - set(KEYS))
        if unknown:
            return f"config has no key '{unknown[0]}': there are {', '.join(KEYS)}"
        if mode not in ("offline", "production"):
            return f"config['mode'] is {mode!r}: give 'offline' or 'production'"
        if self.config.get("recipe") and mode != "production":
            return "config['recipe'] is read in mode 'production' alone: set config['mode'] = 'production'"
        return "" if self.config.get("enabled", True) else f"{REC} is switched off by config['enabled']"

    def _prepare(self) -> str:
        """Make the folder; the reason where that fails."""
        try:
            if self.config.get("folder"):
                self._folder = Path(self.config["folder"])
                self._folder.mkdir(parents=True, exist_ok=True)
            else:
                self._temporary = tempfile.TemporaryDirectory(prefix=f"{REC}-")
                self._folder = Path(self._temporary.name)
        except OSError as error:
            return f"config['folder'] cannot be used ({error}): name a folder that can be written"
        return ""

    def _mode(self) -> str:
        if self.config.get("recipe"):
            return f"Production, recipe {self.config['recipe']}."
        why = " (mode 'production' names no recipe)" if self.config.get("mode") == "production" else ""
        real = {"mode": "production", "recipe": RECIPE}
        return f"Offline default{why}: {OFFLINE}. For the real job give config={real}."

    def _run(self, step: str) -> dict[str, Any]:
        """One step: its ``figures`` and ``artifacts``."""
        if not self.initialized:
            raise RuntimeError("Must call setup() before execute()")
        if self._problem:
            raise RuntimeError(self._problem)
        if self._job is None:
            self._job = _job(self._folder, self.config.get("recipe"))
        logger.info("%s: %s", REC, STEPS[step])
        return getattr(self._job, step)()

    def execute(self) -> dict[str, Any]:
        """Run every step in turn.

        Returns:
            ``success``, ``message``, ``execution_time`` in seconds, ``timestamp`` (ISO, UTC), ``steps_completed``,
            ``artifacts`` (paths by step), ``metrics`` (figures by step), and ``error`` where something failed.

        Raises:
            RuntimeError: `setup` was not called.
        """
        if not self.initialized:
            raise RuntimeError("Must call setup() before execute()")
        began = time.monotonic()
        found, error = self._steps()
        metrics = {step: result["figures"] for step, result in found.items()}
        self._results = {
            "success": not error,
            "message": error or f"{_summary(metrics)} {self._mode()}",
            "execution_time": time.monotonic() - began,
            "timestamp": datetime.now(timezone.utc).isoformat(),
            "steps_completed": list(found),
            "artifacts": {step: result["artifacts"] for step, result in found.items()},
            "metrics": metrics,
        }
        if error:
            self._results["error"] = error
        return self._results

    def _steps(self) -> tuple[dict[str, dict[str, Any]], str]:
        """Results of the steps that finished, and why the next one did not."""
        found: dict[str, dict[str, Any]] = {}
        if self._problem:
            return found, self._problem
        for step in STEPS:
            try:
                found[step] = self._run(step)
            except Exception as failure:  # the caller reads success and error, whatever went wrong below
                logger.exception("%s failed in step %s", REC, step)
                return found, f"{step} failed: {failure}"
        return found, ""

    def validate(self) -> bool:
        """Whether the last execution finished every step, its files stand, and all its figures are finite."""
        found = self._results
        if not found.get("success") or found["steps_completed"] != list(STEPS):
            return False
        files = [Path(path) for paths in found["artifacts"].values() for path in paths]
        return bool(files) and all(path.is_file() for path in files) and _finite(found["metrics"])

    def cleanup(self) -> None:
        """Let go of the models, and of the folder if it is a temporary one; may be called at any time."""
        self.initialized = False
        self._job = None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def write_prompt(self) -> dict[str, Any]:
        """Step 1: design a prompt for the LLM judge."""
        return self._run("write_prompt")

    def send(self) -> dict[str, Any]:
        """Step 2: implement a function to send the generated content to the LLM judge."""
        return self._run("send")

    def parse(self) -> dict[str, Any]:
        """Step 3: parse the response from the LLM judge."""
        return self._run("parse")

    def evaluate(self) -> dict[str, Any]:
        """Step 4: evaluate the generated content based on the parsed response."""
        return self._run("evaluate")

    def classify(self) -> dict[str, Any]:
        """Step 5: use a separate test for zero-shot classifications."""
        return self._run("classify")


ImplementLeverageLlmasajudgeForEvaluatingNbaContent = LeverageLlmasajudgeForEvaluatingNbaContent
"""The name that README and guide use."""


def _job(folder: Path | None, recipe: str | None) -> Any:
    """The job behind the steps; what computes is imported here, where it is needed."""
    from prefloop.loop.dropins_judge import JudgeTrial

    return JudgeTrial(folder, recipe)


def _summary(metrics: dict[str, Any]) -> str:
    """What was found, in a sentence."""
    found, read = metrics["evaluate"], metrics["parse"]
    if found["agreement"] is None:
        return f"none of {read['of']} verdicts could be read: the judge does not keep to the output format."
    share, base = 100 * found["agreement"][0], 100 * found["always_the_more_frequent"]
    beside = f"{base:.1f}% by always saying the more frequent"
    told = found.get("by_likelihood", {}).get("agreement")
    other = f" By likelihood the judge tells {100 * told[0]:.1f}% of pairs rightly." if told else ""
    return f"{read['read']} of {read['of']} verdicts read; {share:.1f}% agree with execution ({beside}).{other}"


def _missing() -> str:
    """What this Python lacks, with the way out; nothing where all is there."""
    need, have = (".".join(map(str, version)) for version in (PYTHON, sys.version_info[:2]))
    if sys.version_info[:2] < PYTHON:
        return (
            f"prefloop needs Python {need} or newer, this is {have}: make an environment of its own with "
            f"'conda create -n prefloop python={need}', activate it, and run '{INSTALL}' in prefloop's checkout"
        )
    if importlib.util.find_spec("prefloop") is None:
        return f"prefloop is not installed for {sys.executable}: run '{INSTALL}' in its checkout, with this Python"
    return ""


def _finite(value: Any) -> bool:
    """Whether every number in nested figures is finite; None stands for what could not be measured."""
    if isinstance(value, dict):
        return all(_finite(part) for part in value.values())
    if isinstance(value, (list, tuple)):
        return all(_finite(part) for part in value)
    return not isinstance(value, float) or math.isfinite(value)


def main() -> int:
    """Set up, execute, validate, clean up; 0 when all went well."""
    print("=" * 80)
    print(f"{REC}: {TITLE}")
    print("=" * 80)
    implementation = LeverageLlmasajudgeForEvaluatingNbaContent()
    try:
        print(f"Setup: {implementation.setup()['message']}")
        results = implementation.execute()
        print(f"Execution: {results['message']}")
        valid = implementation.validate()
        print(f"Validation: {'passed' if valid else 'failed'}")
        print(json.dumps(results["metrics"], indent=1))
    finally:
        implementation.cleanup()
    return 0 if valid else 1


if __name__ == "__main__":
    sys.exit(main())
