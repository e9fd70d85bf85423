#!/usr/bin/env python3
"""Looks at a report's page in a real browser: its structure, that nothing is wider than the screen from a phone's width up, that it asks
for nothing from anywhere, says nothing on the console, sorts, and has two colour schemes whose text can be read.

check_report_page.py [PAGE…] [--program REPORT_PAGE] [--screenshots FOLDER]

REPORT_PAGE writes the pages of a made-up report. Exit status 77: no Chromium here (Debian: chromium)
"""
import argparse
import os
import subprocess
import sys
import tempfile

import browser

# Elements that are wider than the screen, unless they scroll in a box of their own.
TOO_WIDE = """(() => {
  const width = document.documentElement.clientWidth, found = [];
  for (const element of document.body.querySelectorAll("*")) {
    if (element.closest(".scroll, pre") && !element.matches(".scroll, pre")) continue;
    if (element.closest("details:not([open])") && !element.matches("details, summary")) continue;
    const box = element.getBoundingClientRect();
    if (box.width > 0 && box.right > width + 1) found.push(element.tagName + "." + element.className + " " + Math.round(box.right));
  }
  return found.slice(0, 5);
})()"""

# The least contrast (WCAG) of a text with its background, over the kinds of text on the page.
CONTRAST = """(() => {
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const light = text => { const [r, g, b] = parts(text).slice(0, 3).map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
    return .2126 * r + .7152 * g + .0722 * b; };
  const page = getComputedStyle(document.body).backgroundColor;
  let least = 21;
  for (const selector of ["body", ".soft", "td", "a", "figcaption", "h2"]) {
    const element = document.querySelector(selector);
    if (!element) continue;
    const a = light(getComputedStyle(element).color), b = light(page);
    least = Math.min(least, (Math.max(a, b) + .05) / (Math.min(a, b) + .05));
  }
  return least;
})()"""

SORTED = """(() => {
  const table = document.querySelector("table#summary"), titles = [...table.tHead.rows].pop().cells, failures = [];
  for (let column = 0; column < titles.length; ++column) {
    for (const direction of ["ascending", "descending"]) {
      titles[column].querySelector("button").click();
      if (titles[column].getAttribute("aria-sort") !== direction) failures.push(column + ": no " + direction);
      const cells = [...table.tBodies[0].rows].map(row => row.cells[column].dataset.order);
      const known = cells.filter(value => value !== undefined);
      if (cells.slice(0, known.length).some(value => value === undefined)) failures.push(column + ": empty cells are not last");
      if (titles[column].classList.contains("text")) continue;
      for (let i = 1; i < known.length; ++i)
        if ((known[i] - known[i - 1]) * (direction === "ascending" ? 1 : -1) < 0) failures.push(column + ": out of order " + direction);
    }
  }
  return failures;
})()"""

STRUCTURE = """(() => ({
  ids: [...document.querySelectorAll("section")].map(section => section.id),
  links: [...document.querySelectorAll("nav a")].map(link => link.hash.slice(1)),
  rows: document.querySelector("table#summary").tBodies[0].rows.length,
  cards: document.querySelectorAll("#models > details.card").length,
  commands: document.querySelectorAll("#models pre").length,
  unnamed: [...document.querySelectorAll("svg")].filter(svg => !svg.getAttribute("aria-label")).length,
  empty: [...document.querySelectorAll("svg")].filter(svg => svg.getBoundingClientRect().width < 20).length,
  images: document.images.length + document.querySelectorAll("link, iframe, object, script[src]").length,
}))()"""


class Checks:
    def __init__(self, page):
        self.page, self.failures = page, []

    def expect(self, good, what):
        if not good:
            self.failures.append(f"{self.page}: {what}")


def check_width(view, checks, width):
    inner = view.value("document.documentElement.scrollWidth")
    checks.expect(inner <= width, f"is {inner} wide on a screen of {width}")
    wide = view.value(TOO_WIDE)
    checks.expect(not wide, f"reaches over the edge at a width of {width}: {wide}")


def check_page(view, path, folder):
    checks = Checks(os.path.basename(path))
    stem = os.path.splitext(os.path.basename(path))[0]
    view.complaints.clear()
    view.requests.clear()
    view.show(1280)
    view.open(path)
    structure = view.value(STRUCTURE)
    checks.expect(structure["rows"] >= 1 and structure["rows"] == structure["cards"], f"rows and cards disagree: {structure}")
    checks.expect(structure["commands"] == structure["cards"], f"a card without its command: {structure}")
    checks.expect(structure["ids"] == structure["links"], f"links and sections disagree: {structure}")
    checks.expect(structure["unnamed"] == 0 and structure["empty"] == 0 and structure["images"] == 0, f"drawings: {structure}")
    for width in (390, 768, 1280):
        for dark in (False, True):
            view.show(width, dark=dark)
            check_width(view, checks, width)
            if folder:
                view.screenshot(os.path.join(folder, f"{stem}-{width}-{'dark' if dark else 'light'}.png"))
    checks.expect(view.value("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)", "dark is not dark")
    for dark in (False, True):
        view.show(1280, dark=dark)
        contrast = view.value(CONTRAST)
        checks.expect(contrast >= 4.5, f"{'dark' if dark else 'light'}: a contrast of {contrast:.1f} is under 4.5")
    view.show(1280, dark=True)
    view.value("document.querySelector('[data-set-theme=light]').click()")
    checks.expect(view.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)", "the light button does nothing")
    view.show(1280)
    view.value("document.querySelector('[data-set-theme=dark]').click()")
    checks.expect(view.value("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)", "the dark button does nothing")
    view.value("document.querySelector('[data-set-theme=\"\"]').click()")
    failures = view.value(SORTED)
    checks.expect(not failures, f"sorting: {failures}")
    # Everything opened, as in print.
    view.value("document.querySelectorAll('details').forEach(card => { card.open = true; })")
    for width in (390, 1280):
        view.show(width)
        check_width(view, checks, width)
        if folder:
            view.screenshot(os.path.join(folder, f"{stem}-{width}-open.png"))
    view.show(794, media="print")
    check_width(view, checks, 794)
    if folder:
        view.screenshot(os.path.join(folder, f"{stem}-print.png"))
    checks.expect(not view.complaints, f"the console has {view.complaints[:3]}")
    others = [url for url in view.requests if not url.startswith("file://" + os.path.abspath(path))]
    checks.expect(not others, f"asked for {others[:3]}")
    return checks.failures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("pages", nargs="*")
    parser.add_argument("--program")
    parser.add_argument("--screenshots")
    options = parser.parse_args()
    program = browser.find()
    if not program:
        print("skipped: no chromium is installed (Debian package: chromium)")
        return 77
    if options.screenshots:
        os.makedirs(options.screenshots, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="miq-pages-") as folder:
        if options.program:
            subprocess.run([options.program, folder], check=True)
            options.pages += sorted(os.path.join(folder, name) for name in os.listdir(folder))
        view = browser.Browser(program)
        try:
            failures = [failure for page in options.pages for failure in check_page(view, page, options.screenshots)]
        finally:
            view.close()
    for failure in failures:
        print("FAILED " + failure)
    print(f"{len(options.pages)} pages, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
