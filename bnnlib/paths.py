"""Where results lie: in the checkout that holds the library, else below the folder in which Python was started."""

from __future__ import annotations

from pathlib import Path

_ABOVE = Path(__file__).resolve().parents[1]
ROOT = _ABOVE if (_ABOVE / "pyproject.toml").is_file() else Path.cwd()
RESULTS = ROOT / "results"
