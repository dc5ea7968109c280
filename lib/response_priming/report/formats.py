"""The page as one file: Word and JATS XML, by pandoc, whatever renders the page.

Quarto would render every notebook anew for JATS, and the manuscript for either. PDF is Quarto's alone.
"""

import os
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pypandoc
import yaml

from response_priming.report import preview

FORMATS = {"index.docx": "docx", "index.xml": "jats_publishing"}  # addresses as Quarto's, and pandoc's names


def write(folder: Path, site: Path, cited: Mapping[str, Any]) -> None:
    """Write the staged manuscript into the site in all of `FORMATS`; `cited`: as of `citation.metadata`.

    What the page folds is open in them (report/html.lua), what it draws by a script is left out, and a link to what
    does not travel is text (report/one-file.lua).
    """
    variables = yaml.safe_load((folder / "_variables.yml").read_text(encoding="utf-8"))
    text = preview.expand((folder / "index.qmd").read_text(encoding="utf-8"), folder, variables, drawn=False)
    _, front, body = text.split("---\n", 2)
    authors = [author["name"]["literal"] for author in cited["author"]]
    licence = {"type": "open-access", "link": cited["license"]["url"], "text": cited["license"]["text"]}
    about = yaml.safe_load(front) | {
        "author": authors,
        "date": cited["date"],
        "keywords": cited["keywords"],
        "tags": cited["keywords"],
        "copyright": cited["copyright"] | licence,
    }
    abstracts = {"index.xml": {"abstract": variables["abstract"] + "\n"}}  # a paragraph; the text of Word has its own
    filters = [f"--lua-filter={folder / name}" for name in ("figures.lua", "html.lua", "one-file.lua")]
    options = ["--standalone", "--sandbox", "--quiet", "--number-sections", *filters, "--citeproc"]
    options += [f"--bibliography={folder / 'references.bib'}", "--from=markdown"]
    # The day of the results, so that the same results are the same file.
    day = {"SOURCE_DATE_EPOCH": f"{datetime.fromisoformat(cited['date']).replace(tzinfo=UTC).timestamp():.0f}"}

    def convert(name: str) -> None:
        head = yaml.safe_dump(about | abstracts.get(name, {}), allow_unicode=True)
        command = [pypandoc.get_pandoc_path(), *options, f"--to={FORMATS[name]}", f"--output={site / name}"]
        subprocess.run(command, input=f"---\n{head}---\n{body}".encode(), env=os.environ | day, check=True)

    with ThreadPoolExecutor() as pool:  # pandoc is a process of its own
        list(pool.map(convert, FORMATS))
