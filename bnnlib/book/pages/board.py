"""All recorded runs in one table that a reader sorts and filters: DataTables by way of itables, its script in the page."""

from __future__ import annotations

import html
import re
from pathlib import Path


def sortable(folder: Path) -> str:
    """The table of every recipe that has records in ``folder``, as MyST; a sentence where there is none.

    The script is part of the page, since a page opened from a folder may fetch nothing. Without scripts the table is
    absent, and the grouped tables of the page say the same.
    """
    import pandas as pd
    from itables.javascript import generate_init_offline_itables_html, to_html_datatable
    from itables.utils import find_package_file

    from bnnlib.experiments import report, scoreboard

    rows = []
    for row in report.rows(folder):
        if row.last is None:
            continue
        r = row.recipe
        rows.append(
            {
                "network": html.escape(r.title),
                "kind": scoreboard.GROUPS[scoreboard.group(row)].partition(":")[0],
                "source": r.source,
                "data": r.dataset,
                "claimed, %": "" if r.published.top1 is None else f"{r.published.top1:.2f}",
                "last epoch, %": f"{row.last.mean:.2f}",
                "± sd": "" if row.last.sd is None else f"{row.last.sd:.2f}",
                "seeds": row.last.n,
            }
        )
    if not rows:
        return "*None yet.*\n"
    table = to_html_datatable(
        pd.DataFrame(rows),
        connected=False,
        table_id="all-runs",
        maxBytes=0,
        allow_html=True,
        showIndex=False,
        classes="display compact",
        style="width: 100%; table-layout: auto",
        columnDefs=[{"className": "dt-right", "targets": [4, 5, 6, 7]}, {"width": "34%", "targets": 0}],
        layout={"topStart": "search", "topEnd": None, "bottomStart": "info", "bottomEnd": "paging"},
        lengthMenu=[15, 50, 200],
        pageLength=15,
        text_in_header_can_be_selected=False,
    )
    script = generate_init_offline_itables_html(find_package_file("html/dt_bundle.js"))
    script = re.search(r"<script>.*?</script>", script, re.DOTALL)[0]
    table = re.sub(r"<!--.*?-->|<tbody>.*?</tbody>", "", table, count=2, flags=re.DOTALL)  # what is shown while it loads
    # a static copy, for viewers without scripts, that leads to another site
    table = re.sub(r'<div id="all-runs_fallback">.*?</div>(?=<script>)', "", table, count=1, flags=re.DOTALL)
    lines = "\n".join(line for line in f"{script}\n{table}".splitlines() if line.strip())
    return f'```{{raw}} html\n<div class="all-runs">\n{lines}\n</div>\n```\n'
