"""What no page asks for goes: most of MathJax, unused icons, translations, maps to sources of scripts."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

# What a page may load of MathJax: the component, its fonts, and the TeX extensions it fetches when needed.
_MATHJAX_KEPT = ("tex-chtml.js", "output/chtml/fonts/", "input/tex/extensions/")
_ICON = re.compile(r'("?)([\w-]+)\1:\[\d+,\d+,\[[^\]]*\],"[0-9a-f]*",(?:"[^"]*"|\[[^\]]*\])\],?')


def prune(site: Path) -> None:
    """Remove what no page asks for: most of MathJax (24 MB with all its output formats and speech engines), icons
    that no page shows (1.4 MB), the theme's templates and translations, and the maps to the sources of its scripts."""
    mathjax = site / "_static" / "mathjax"
    for path in sorted(mathjax.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif not path.relative_to(mathjax).as_posix().startswith(_MATHJAX_KEPT):
            path.unlink()
    (site / ".buildinfo").unlink(missing_ok=True)
    shutil.rmtree(site / "_static" / "locales", ignore_errors=True)
    for path in [*(site / "_static").rglob("*.map"), *(site / "_static").glob("*webpack-macros.html")]:
        path.unlink()
    icons(site)


def icons(site: Path) -> int:
    """Keep of the theme's icons those that pages and scripts name; returns how many stay."""
    script = site / "_static" / "scripts" / "fontawesome.js"
    if not script.is_file():
        return 0
    named: set[str] = set()
    for path in [*site.rglob("*.html"), *(site / "_static").rglob("*.js")]:
        if path != script:
            named |= set(re.findall(r"\bfa-([a-z0-9-]+)", path.read_text(encoding="utf-8", errors="replace")))
    text = script.read_text(encoding="utf-8")
    kept = re.sub(_ICON, lambda found: found[0] if found[2] in named else "", text)
    script.write_text(kept, encoding="utf-8")
    return len(_ICON.findall(kept))
