"""Citation: how the page is cited, from CITATION.cff and from the profile and commit that made its results.

Quarto's title block, meta tags and citation, those of the preview, and the entry in the text all come from here.
"""

import html
import textwrap
import tomllib
from collections.abc import Mapping
from typing import Any

import jinja2
import yaml

from response_priming import params, paths
from response_priming.report import origins
from response_priming.report.variables import made

KEY = "responsepriming"  # of the entry
SPDX = "https://spdx.org/licenses/"


def metadata(profile: params.Profile, texts: Mapping[str, str]) -> dict[str, Any]:
    """What Quarto and pandoc make a title block, meta tags and a citation from, in the keys that Quarto documents.

    Args:
        texts: the manuscript's variables, of which `abstract` is the abstract, in Markdown.
    """
    about, manifest = _about(), made(profile)
    # Literal: it is no person's name, and must not be split into a given and a family name.
    authors: list[dict[str, Any]] = [
        {"name": {"literal": author.get("name") or f"{author['given-names']} {author['family-names']}"}}
        | ({"affiliations": [{"name": author["affiliation"]}]} if "affiliation" in author else {})
        for author in about["authors"]
    ]
    names = ", ".join(author["name"]["literal"] for author in authors)
    citation = {
        "type": about["type"],
        "id": KEY,
        "title": about["title"],
        "version": about["version"],
        "note": f"Profile {profile.name}, commit {manifest['commit']}",
        "abstract": html.unescape(origins.bare(texts["abstract"])),
        "keyword": ", ".join(about["keywords"]),
    }
    year = manifest["day"][:4]
    found = {
        "author": authors,
        "date": manifest["day"],
        "keywords": about["keywords"],
        "license": {"text": about["license"], "url": f"{SPDX}{about['license']}.html"},
        "copyright": {"holder": names, "year": year, "statement": f"© {year} {names}"},
        "citation": citation,
    }
    if address := _address(about):
        citation["url"] = address
        found["code-links"] = [{"text": "Code", "icon": "code-slash", "href": address}]
    return found


def bibtex(cited: Mapping[str, Any]) -> str:
    """The page as a BibTeX entry, a code block in Markdown; `cited`: as of `metadata`."""
    citation = cited["citation"]
    fields = {
        "title": f"{{{citation['title']}}}",
        "author": " and ".join(f"{{{author['name']['literal']}}}" for author in cited["author"]),
        "year": cited["date"][:4],
        "version": citation["version"],
        "license": cited["license"]["text"],
        "note": citation["note"],
    } | ({"url": citation["url"]} if "url" in citation else {})
    lines = "".join(
        textwrap.fill(f"  {key:7} = {{{value}}},", 76, subsequent_indent=" " * 14) + "\n"
        for key, value in fields.items()
    )
    return f"```\n@software{{{KEY},\n{lines}}}\n```\n"


def head(cited: Mapping[str, Any]) -> str:
    """The meta tags that Quarto gives a manuscript, for the preview; `cited`: as of `metadata`."""
    return _filled("meta.html.jinja", cited=cited)


def block(cited: Mapping[str, Any], *, pdf: bool) -> str:
    """Keywords, licence, code and other formats, in Markdown, for every renderer; `cited`: as of `metadata`."""
    return _filled("_about.md.jinja", cited=cited, pdf=pdf)


def _filled(file: str, **values: Any) -> str:
    folder = jinja2.FileSystemLoader(paths.REPORT)
    words = jinja2.Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return words.get_template(file).render(values)


def _about() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    return content


def _address(about: Mapping[str, Any]) -> str | None:
    """Where the code is, as CITATION.cff or pyproject.toml says; None where neither does."""
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {key.lower(): url for key, url in project.get("urls", {}).items()}
    return about.get("repository-code") or about.get("url") or named.get("repository") or named.get("homepage")
