"""Takes pictures of the charts of loops' reports, for docs/findings: docs/figures/loop-NAME.png, NAME the run's folder.

    python docs/make_loop_pictures.py runs/iterative-dpo runs/rlhf-nba

What is pictured is ``report.html`` as it lies in the run's folder. Needs chromium.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

FIGURES = Path(__file__).with_name("figures")
SECTIONS = ("charts", "distance")
WIDTH = 1100


def picture(page: Page, run: Path) -> list[Path]:
    """The sections with charts, a file each."""
    page.goto((run / "report.html").resolve().as_uri())
    found = []
    for name in SECTIONS:
        section = page.locator(f"#{name}")
        if section.count():
            found.append(FIGURES / f"loop-{run.name}-{name}.png")
            section.screenshot(path=found[-1])
    return found


def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("chromium is not there: install it (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        for run in sys.argv[1:]:
            print(*picture(page, Path(run)), sep="\n")
        browser.close()


if __name__ == "__main__":
    main()
